"""Real bodies for a pose prior: poses from motion sources, so many for each sample of a batch."""

from collections.abc import Sequence

import numpy as np
import torch

from hmrkit.data.mix import Mix, MixSource
from hmrkit.data.record import BadRecord
from hmrkit.data.shards import ShardSet
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Body

_MAX_ATTEMPTS = 10  # replacements in a row before a source counts as unusable
_PURPOSE = 1  # keeps the draws apart from those of the samples


class PosePrior:
    """Poses of motion records; draw t is a pure function of (seed, t), as that of a sample is.

    Args:
        names: of the sources.
        sources: motion shards.
        weights: relative to each other.
        per_sample: poses for each sample of a batch.
        seed: of the run.
    """

    unit = "record"
    required_labels = ("pose", "betas")

    def __init__(
        self,
        names: Sequence[str],
        sources: Sequence[ShardSet],
        weights: Sequence[float],
        per_sample: int,
        seed: int,
    ) -> None:
        rows = zip(names, weights, [len(source) for source in sources], strict=True)
        self.mix = Mix([MixSource(*row) for row in rows], seed + _PURPOSE)
        self.sources, self.per_sample = list(sources), per_sample

    def draw(self, first_sample: int, num_samples: int) -> Body:
        """Bodies for the samples from number ``first_sample`` on, (num_samples * per_sample,)."""
        start, num = first_sample * self.per_sample, num_samples * self.per_sample
        rows = [self._pose(t) for t in range(start, start + num)]
        pose, betas = (np.stack(part) for part in zip(*rows, strict=True))
        rotmat = axis_angle_to_rotmat(torch.from_numpy(pose))  # (N, 24, 3, 3)
        return Body(
            global_orient=rotmat[:, 0].contiguous(),
            body_pose=rotmat[:, 1:].contiguous(),
            betas=torch.from_numpy(betas),
            transl=torch.zeros(num, 3),
        )

    def _pose(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Pose (24, 3) and betas (10,) of draw t; a record drawn gives one frame of it."""
        source, record = self.mix.draw(t)
        rng = self.mix.augmentation(t)
        for attempt in range(_MAX_ATTEMPTS):
            try:
                sample = self.sources[source].read(record)
            except BadRecord as error:
                last: Exception = error
            else:
                frames = np.flatnonzero(sample["has_pose"] & sample["has_betas"])
                if len(frames):
                    frame = frames[rng.integers(len(frames))]
                    return sample["pose"][frame], sample["betas"][frame]
                last = ValueError(f"record {sample['key']!r} has no frame with pose and betas")
            record = self.mix.reserve(t, attempt)
        raise ValueError(f"prior source {self.mix.sources[source].name!r}: {last}")
