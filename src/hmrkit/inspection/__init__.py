"""What does a prepared set hold, and is it right?"""
