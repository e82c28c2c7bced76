"""How does an official annotation become a sample?"""
