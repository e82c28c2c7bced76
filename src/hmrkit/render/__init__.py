"""How does a mesh become pixels?"""
