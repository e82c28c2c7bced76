"""Find the 21 landmarks and number the vertices so that they sit where smplx looks for them."""

import numpy as np

from free_body.skeleton import JOINTS, cube_centre
from free_body.source import Source

# name -> (right, left) index in smplx's table of vertex joints 'smplh'; the nose is one
LANDMARKS = {
    "nose": (332, 332),
    "eye": (6260, 2800),
    "ear": (4071, 583),
    "thumb": (6191, 2746),
    "index": (5782, 2319),
    "middle": (5905, 2445),
    "ring": (6016, 2556),
    "pinky": (6133, 2673),
    "big_toe": (6617, 3216),
    "small_toe": (6624, 3226),
    "heel": (6787, 3387),
}


def find_landmarks(
    source: Source, body: np.ndarray, candidates: np.ndarray, weights: np.ndarray, eye: np.ndarray
) -> dict[str, int]:
    """The nose and the ten left landmarks among ``candidates`` (vertex ids of the left half).

    Args:
        source: the files.
        body: (19158, 3) mean body in the A pose.
        candidates: kept vertices of the left half and the midline.
        weights: (skin, 24) skinning weights.
        eye: vertices of the left eye's membrane.
    """
    points = body[candidates]

    def cube(name: str) -> np.ndarray:
        return cube_centre(source, body, name)

    def extreme(direction: np.ndarray, mask: np.ndarray) -> int:
        assert mask.any()
        return int(candidates[np.where(mask, points @ direction, -np.inf).argmax()])

    def around(centre: np.ndarray, radius: float) -> np.ndarray:
        return np.linalg.norm(points - centre, axis=1) < radius

    forward = np.array([0.0, 0.0, 1.0])
    is_mid = source.pair[candidates] == candidates
    face = (points[:, 1] > cube("jaw")[1]) & (points[:, 1] < cube("l-eye")[1])
    found = {"nose": extreme(forward, is_mid & face)}
    found["eye"] = extreme(forward, np.isin(candidates, eye))
    head = (weights[candidates].argmax(1) == JOINTS.index("head")) & (points[:, 0] > 0)
    head_ids = np.flatnonzero(head)
    lateral = points[head_ids[np.argsort(-points[head_ids, 0])[:25]]].mean(0) + 0.012 * forward
    found["ear"] = int(
        candidates[head_ids][np.linalg.norm(points[head_ids] - lateral, axis=1).argmin()]
    )
    for finger, name in enumerate(("thumb", "index", "middle", "ring", "pinky"), start=1):
        tip, before = cube(f"l-finger-{finger}-4"), cube(f"l-finger-{finger}-3")
        found[name] = extreme(tip - before, around(tip, 0.016))
    for name, tip in (("big_toe", "1-3"), ("small_toe", "5-4")):
        found[name] = extreme(forward, around(cube(f"l-toe-{tip}"), 0.02))
    low = points[:, 1] < points[:, 1].min() + 0.03
    found["heel"] = extreme(-forward, low & ~is_mid)
    return found


def order_vertices(
    left: np.ndarray, middle: np.ndarray, pair: np.ndarray, landmarks: dict[str, int]
) -> np.ndarray:
    """Original vertex ids (6890,) in their new order.

    Left and middle fill 0..3510 in their own order around the landmarks; the right side follows
    in the order of its partners, but for the right landmarks.
    """
    half = np.sort(np.concatenate([left, middle]))
    num = 2 * len(left) + len(middle)
    right_slot = {int(pair[landmarks[name]]): slots[0] for name, slots in LANDMARKS.items()}
    left_slot = {landmarks[name]: slots[1] for name, slots in LANDMARKS.items()}
    order = np.full(num, -1)
    for vertex, slot in (right_slot | left_slot).items():
        order[slot] = vertex
    free = np.flatnonzero(order[: len(half)] < 0)
    order[free] = half[~np.isin(half, list(left_slot))]
    rest = pair[order[: len(half)]]
    rest = rest[(rest != order[: len(half)]) & ~np.isin(rest, list(right_slot))]
    order[np.flatnonzero(order < 0)] = rest
    assert len(np.unique(order)) == num
    return order
