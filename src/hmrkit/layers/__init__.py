"""Which networks do two methods share?"""
