"""How are people rendered who never existed?"""
