"""How does a network fit one person's 2D keypoints at test time? For every method of crops."""
