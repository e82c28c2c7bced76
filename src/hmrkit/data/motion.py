"""A clip of poses without images -> the frames that a method of poses learns from; P frames."""

import numpy as np

from hmrkit.data.augment import mirror_matrix, move_world
from hmrkit.data.crops import select_persons
from hmrkit.data.record import Unusable
from hmrkit.types import Sample


class Motion:
    """Takes consecutive frames of a record; every frame is one row of the people.

    Args:
        num_frames: so many frames, from a random start with ``rng``, else the first ones; None for
            the whole record.
        flip_probability: of mirroring the world with ``rng``.
    """

    unit = "record"

    def __init__(self, num_frames: int | None = None, flip_probability: float = 0.0) -> None:
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"num_frames={num_frames}: a clip needs at least one frame")
        self.num_frames = num_frames
        self.flip_probability = flip_probability

    def __call__(
        self, sample: Sample, view: int | None = None, rng: np.random.Generator | None = None
    ) -> Sample:
        """Take the frames; ``view`` plays no part.

        Raises:
            Unusable: if the record is shorter than ``num_frames``.
        """
        total = len(sample["pose"])
        length = total if self.num_frames is None else self.num_frames
        if length > total:
            raise Unusable(
                f"record {sample['key']!r} has {total} frames, num_frames={length} are wanted; ask "
                "for fewer or leave short clips out"
            )
        start = 0 if rng is None else int(rng.integers(total - length + 1))
        frames = slice(start, start + length)
        is_flipped = rng is not None and rng.random() < self.flip_probability
        return move_world(select_persons(sample, frames), mirror_matrix(is_flipped))
