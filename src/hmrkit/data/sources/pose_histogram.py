"""Which poses are improbable: 4D-Humans' histogram of AMASS, one per body joint, smoothed.

The file ``amass_poses_hist100_SMPL+H_G.npy`` counts axis-angle vectors of AMASS in 100 bins per
axis. 4D-Humans turns the counts into densities, smooths them (across the joints too) and trusts a
fitted pose only if every one of its 21 body joints is denser than a threshold. What is kept in
memory is one bit per bin, 2.7 MB.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from hmrkit.body import joints

NUM_BINS = 100  # per axis, from -pi to pi
SIGMA = 2.0  # bins, and joints
BODY_JOINTS = joints.names("smpl24")[1:22]  # without root and hands
_BODY_ROWS = np.array(joints.index(BODY_JOINTS, "smpl24"))

# The least density of a trusted pose, per cubic radian; 4D-Humans.
_LEAST = {
    "hip": 5e-5,
    "spine1": 2e-3,
    "knee": 5e-6,
    "spine2": 0.01,
    "ankle": 5e-6,
    "spine3": 0.025,
    "foot": 0.0,
    "neck": 2e-4,
    "collar": 4.5e-4,
    "head": 5e-4,
    "shoulder": 2e-4,
    "elbow": 4e-5,
    "wrist": 1e-3,
}
THRESHOLDS = np.array([_LEAST[name.split("_")[-1]] for name in BODY_JOINTS], np.float32)  # (21,)


def pose_density(path: str | Path) -> np.ndarray:
    """The smoothed density (21, 100, 100, 100) float32 of a histogram file, per cubic radian.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not that histogram.
    """
    path = Path(path)
    shape = (len(BODY_JOINTS), *3 * (NUM_BINS,))
    remedy = "it is amass_poses_hist100_SMPL+H_G.npy of 4D-Humans' data"
    if not path.is_file():
        raise FileNotFoundError(
            f"pose_histogram={path} does not exist: {remedy}; pose_histogram=null trusts every pose"
        )
    try:
        counts = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"pose_histogram={path} cannot be read ({error}): {remedy}") from error
    if counts.shape != shape:
        raise ValueError(f"pose_histogram={path} has shape {counts.shape}, not {shape}: {remedy}")
    total = counts.sum(dtype=np.float64)
    density = counts.astype(np.float32)
    density /= np.float32(total * (2 * np.pi / NUM_BINS) ** 3)
    gaussian_filter(density, SIGMA, mode="constant", output=density)
    return density


def pose_bins(pose: np.ndarray) -> np.ndarray:
    """The bins (P, 21, 3) int64 of body poses (P, 24, 3), axis-angle of any length."""
    body = np.nan_to_num(np.asarray(pose, np.float64)[:, _BODY_ROWS])
    angle = np.linalg.norm(body, axis=-1, keepdims=True)
    wrapped = (angle + np.pi) % (2 * np.pi) - np.pi  # the same rotation by at most pi
    body = body * np.divide(wrapped, angle, out=np.ones_like(angle), where=angle > 0)
    bins = np.floor((body + np.pi) / (2 * np.pi) * (NUM_BINS - 1e-6)).astype(np.int64)
    return bins.clip(0, NUM_BINS - 1)


def is_probable(pose: np.ndarray, path: str | Path) -> np.ndarray:
    """(P,) bool: every body joint of a pose (P, 24, 3) is denser than its threshold.

    Args:
        pose: axis-angle.
        path: the histogram; it is read once per process.
    """
    x, y, z = np.moveaxis(pose_bins(pose), -1, 0)  # (P, 21) each
    packed = _probable_bins(str(path))[np.arange(len(BODY_JOINTS)), x, y, z >> 3]
    return (packed >> (7 - (z & 7)).astype(np.uint8) & 1).all(axis=1)


@lru_cache(maxsize=2)
def _probable_bins(path: str) -> np.ndarray:
    """(21, 100, 100, 13) uint8, the bins denser than the threshold, 8 to a byte."""
    return np.packbits(pose_density(path) > THRESHOLDS[:, None, None, None], axis=-1)
