import sys

import numpy as np
import pytest

from hmrkit.infer.tracking import NOBODY, LibraryTracker, MotionTracker


def box(x, y, height=100.0):
    return [x - height / 4, y - height / 2, x + height / 4, y + height / 2]


def follow(tracker, frames, scores=None):
    """Ids of each frame's boxes, in their order."""
    result = []
    for i, boxes in enumerate(frames):
        found = np.array(boxes, np.float32).reshape(-1, 4)
        score = np.full(len(found), 0.9) if scores is None else np.array(scores[i])
        result.append(tracker.update(found, score).tolist())
    return result


def library(fps=25.0, **options):
    pytest.importorskip("trackers")
    options = {"track_activation_threshold": 0.5, "high_conf_det_threshold": 0.5} | options
    return LibraryTracker(fps, options={"minimum_consecutive_frames": 1, **options})


BOTH = pytest.mark.parametrize("make", [lambda: MotionTracker(25.0), library], ids=["own", "other"])


@BOTH
def test_people_keep_their_ids_whatever_the_order_of_their_boxes(make):
    rng = np.random.default_rng(0)
    tracker, seen = make(), {}
    for frame in range(40):
        people = [box(100 + 3 * frame, 200), box(400, 200 + 2 * frame), box(600 - 4 * frame, 220)]
        order = rng.permutation(3)
        ids = tracker.update(np.float32([people[i] for i in order]), np.full(3, 0.9))
        for person, identity in zip(order, ids, strict=True):
            seen.setdefault(int(person), set()).add(int(identity))
    named = [ids - {NOBODY} for ids in seen.values()]  # ByteTrack does not name who is new
    assert [len(ids) for ids in named] == [1, 1, 1]
    assert len(set.union(*named)) == 3


@BOTH
def test_who_walks_behind_somebody_comes_out_with_the_same_id(make):
    """Two people cross; for ten frames only the front one is found."""
    frames = []
    for frame in range(60):
        front, back = box(100 + 5 * frame, 200), box(400 - 5 * frame, 190, 95)
        frames.append([front] if 25 <= frame < 35 else [front, back])
    ids = follow(make(), frames)
    assert ids[2] == ids[-1]
    assert len({i for row in ids for i in row} - {NOBODY}) == 2


def test_nobody_in_a_frame_is_no_trouble():
    ids = follow(MotionTracker(25.0), [[], [box(100, 100)], [], [], [box(102, 100)], []])
    assert ids[1] == ids[4] != [NOBODY]
    assert ids[0] == ids[5] == []


def test_half_hidden_people_keep_an_id_and_do_not_begin_one():
    frames = [[box(100, 100)], [box(102, 100)], [box(104, 100), box(300, 100)], [box(106, 100)]]
    ids = follow(MotionTracker(25.0, min_score=0.5), frames, [[0.9], [0.2], [0.2, 0.3], [0.9]])
    assert [row[0] for row in ids] == [1, 1, 1, 1]
    assert ids[2][1] == NOBODY


def test_somebody_who_was_away_for_long_is_somebody_new():
    frames = [[box(100, 100)], *[[]] * 60, [box(100, 100)]]
    ids = follow(MotionTracker(25.0, max_lost_s=1.5), frames)
    assert ids[0] != ids[-1]


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ValueError, match=r'pip install "hmrkit\[tracking\]", or take tracker=mot'):
        LibraryTracker(25.0)
