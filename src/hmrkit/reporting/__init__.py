"""What does a run's report look like?"""
