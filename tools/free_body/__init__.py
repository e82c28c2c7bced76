"""Steps of the free body's builder; start at ``tools/make_free_body.py``."""
