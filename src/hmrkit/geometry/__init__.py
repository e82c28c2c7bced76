"""How do I get from one frame or rotation form to another?"""
