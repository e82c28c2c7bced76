"""The quick start's data in seconds, for the tests that train."""

TINY = {"train": (192, 1), "val": (24, 2), "test": (32, 3)}  # split -> records, seed


def tiny_sizes() -> list[str]:
    """Overrides that shrink the quick start's data to seconds."""
    sizes = [f"mix.{split}.quickstart.synth.num={num}" for split, (num, _) in TINY.items()]
    return [*sizes, *(f"mix.{split}.quickstart.synth.image_size=64" for split in TINY)]
