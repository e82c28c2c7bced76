"""What is a body, in tensors?"""
