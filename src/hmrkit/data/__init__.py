"""How does a tar become a batch?"""
