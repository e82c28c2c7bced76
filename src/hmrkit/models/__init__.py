"""What is method X?"""
