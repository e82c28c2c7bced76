"""Who is who from frame to frame: boxes in, ids out, one tracker per video.

``MotionTracker`` needs nothing but SciPy and is the default. ``LibraryTracker`` hands over to a
tracker of roboflow's ``trackers`` package (Apache-2.0; ``pip install "hmrkit[tracking]"``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

NOBODY = -1  # id of a box that belongs to no track


class Tracker(Protocol):
    """Is told what was found in each frame, in order."""

    def update(self, boxes_img: NDArray, scores: NDArray) -> NDArray[np.int64]:
        """Ids (N,) of boxes (N, 4) px with scores (N,); ``NOBODY`` where it has none."""
        ...


@dataclass
class _Track:
    identity: int
    state: NDArray  # middle x y, log height, log width
    speed: NDArray  # of those, per frame
    lost: int = 0  # frames since it was seen
    age: int = 1

    def predicted(self) -> NDArray:
        """Where it is now; somebody who is hidden slows down rather than flies away."""
        ahead = (1 - _DAMPING ** (self.lost + 1)) / (1 - _DAMPING)
        return self.state + self.speed * np.array([ahead, ahead, 0, 0])


_DAMPING = 0.95  # of a hidden person's speed, per frame
_LEARNING = 0.3  # of the speed


class MotionTracker:
    """Optimal pairing of predicted and found boxes, by distance and size; sure people first.

    The scheme of ByteTrack (Zhang et al. 2022): first the boxes with high scores are paired with
    all tracks, then the others with the tracks that are left, so that half-hidden people keep their
    id and do not begin a new one. People move with constant velocity; who is not seen for a while
    keeps the id.

    Args:
        fps: frames per second of the video.
        max_lost_s: for how long somebody may be hidden.
        max_distance: between prediction and box, in heights of the box; grows while hidden.
        sure_score: of a box that is paired in the first round.
        min_score: of a box that begins a track.
    """

    def __init__(
        self,
        fps: float,
        max_lost_s: float = 1.5,
        max_distance: float = 0.35,
        sure_score: float = 0.5,
        min_score: float = 0.0,
    ) -> None:
        self._max_lost = max_lost_s * fps
        self._max_distance, self._sure_score = max_distance, sure_score
        self._min_score = min_score
        self._growth = max_distance * 2 / fps  # per hidden frame
        self._tracks: list[_Track] = []
        self._next = 1

    def update(self, boxes_img: NDArray, scores: NDArray) -> NDArray[np.int64]:
        """Ids (N,) of boxes (N, 4) px with scores (N,); ``NOBODY`` where it has none."""
        states = _boxes_to_states(np.asarray(boxes_img, np.float64).reshape(-1, 4))
        ids = np.full(len(states), NOBODY, np.int64)
        is_sure = np.asarray(scores) >= self._sure_score
        waiting = list(self._tracks)
        for rows in (np.flatnonzero(is_sure), np.flatnonzero(~is_sure)):
            pairs = self._pair(waiting, states[rows])
            for track, row in [(waiting[t], rows[r]) for t, r in pairs]:
                ids[row] = track.identity
                self._follow(track, states[row])
                waiting.remove(track)
        for track in waiting:
            track.lost += 1
        self._tracks = [track for track in self._tracks if track.lost <= self._max_lost]
        for row in np.flatnonzero((np.asarray(scores) >= self._min_score) & (ids == NOBODY)):
            self._tracks.append(_Track(self._next, states[row], np.zeros(4)))
            ids[row] = self._next
            self._next += 1
        return ids

    def _pair(self, tracks: list[_Track], states: NDArray) -> list[tuple[int, int]]:
        if not tracks or not len(states):
            return []
        where = np.stack([track.predicted() for track in tracks])[:, None]
        height = np.exp(np.maximum(where[..., 2], states[:, 2]))
        apart = np.linalg.norm(where[..., :2] - states[:, :2], axis=-1) / height
        resized = np.abs(where[..., 2:] - states[:, 2:]).mean(axis=-1)
        limit = self._max_distance + self._growth * np.array([[t.lost] for t in tracks])
        cost = np.where(apart <= limit, apart + 0.5 * resized, np.inf)
        big = 1e6
        chosen = linear_sum_assignment(np.minimum(cost, big))
        return [(t, r) for t, r in zip(*chosen, strict=True) if cost[t, r] < big]

    def _follow(self, track: _Track, state: NDArray) -> None:
        measured = (state - track.state) / (track.lost + 1)
        rate = max(_LEARNING, 1 / track.age)  # the first steps say all that is known
        track.speed = track.speed + rate * (measured - track.speed)
        track.state, track.lost, track.age = state, 0, track.age + 1


class LibraryTracker:
    """A tracker of roboflow's ``trackers`` package: ByteTrack, OC-SORT, BoT-SORT, SORT.

    Args:
        fps: frames per second of the video.
        name: of its class, for example ``ByteTrackTracker``.
        max_lost_s: for how long somebody may be hidden.
        options: other arguments of that class.

    Raises:
        ValueError: if the package is not installed, or has no such class.
    """

    def __init__(
        self,
        fps: float,
        name: str = "ByteTrackTracker",
        max_lost_s: float = 1.5,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import trackers
        except ImportError as error:
            raise ValueError(
                'tracker: the package "trackers" is missing: pip install "hmrkit[tracking]", or '
                "take tracker=motion; python -m hmrkit.doctor shows what is installed"
            ) from error
        if not hasattr(trackers, name):
            raise ValueError(f"tracker.name={name}: the package trackers has no such class")
        # Its buffer is counted in frames of a video of 30 per second.
        self._tracker: Any = getattr(trackers, name)(
            frame_rate=fps, lost_track_buffer=max(1, round(30 * max_lost_s)), **(options or {})
        )

    def update(self, boxes_img: NDArray, scores: NDArray) -> NDArray[np.int64]:
        """Ids (N,) of boxes (N, 4) px with scores (N,); ``NOBODY`` where it has none."""
        import supervision

        boxes = np.asarray(boxes_img, np.float32).reshape(-1, 4)
        rows = np.arange(len(boxes))
        found = supervision.Detections(
            xyxy=boxes,
            confidence=np.asarray(scores, np.float32).reshape(-1),
            class_id=np.zeros(len(boxes), int),
            data={"row": rows},
        )
        tracked = self._tracker.update(found)  # in an order of its own
        ids = np.full(len(boxes), NOBODY, np.int64)
        if tracked.tracker_id is not None and len(tracked):
            ids[np.asarray(tracked.data["row"], int)] = tracked.tracker_id
        return ids


def _boxes_to_states(boxes_img: NDArray) -> NDArray:
    middle = (boxes_img[:, :2] + boxes_img[:, 2:]) / 2
    size = np.maximum(boxes_img[:, 2:] - boxes_img[:, :2], 1.0)
    return np.concatenate([middle, np.log(size[:, ::-1])], axis=1)
