"""What happens between a photo and the files a user keeps?"""
