import numpy as np
import pytest

from hmrkit.body import joints


def test_the_superset_holds_every_other_set_and_starts_with_the_label_sets_in_order():
    parts = [joints.names(s) for s in ("smpl24", "openpose25", "spin24", "h36m17")]
    landmarks = joints.names("smpl45")[24:]
    assert joints.names("all") == tuple(n for part in [*parts, landmarks] for n in part)
    for joint_set in joints.JOINT_SETS:
        assert (joints.mapping("all", joint_set) >= 0).all(), joint_set


@pytest.mark.parametrize("joint_set", sorted(joints.JOINT_SETS))
def test_names_are_unique_and_have_a_source(joint_set: str):
    names = joints.names(joint_set)
    assert len(set(names)) == len(names)
    assert set(names) <= joints.SOURCES.keys()


@pytest.mark.parametrize("joint_set", sorted(joints.JOINT_SETS))
def test_flipping_twice_is_nothing_and_swaps_sides(joint_set: str):
    names, flip = np.array(joints.names(joint_set)), joints.flip_permutation(joint_set)
    assert np.array_equal(flip[flip], np.arange(len(names)))
    for name, mirrored in zip(names, names[flip], strict=True):
        assert mirrored.replace("left_", "right_") == name.replace("left_", "right_")
        assert (mirrored == name) == ("left_" not in name and "right_" not in name)


@pytest.mark.parametrize("joint_set", sorted(joints.JOINT_SETS))
def test_skeletons_are_symmetric_and_inside_the_set(joint_set: str):
    edges = joints.skeleton(joint_set)
    flip = joints.flip_permutation(joint_set)
    undirected = {frozenset(edge) for edge in edges}
    assert len(undirected) == len(edges)
    assert all(len(edge) == 2 for edge in undirected)
    assert undirected == {frozenset(int(flip[i]) for i in edge) for edge in edges}
    assert max(map(max, edges)) < len(joints.names(joint_set))


def test_official_flips():
    flip = [5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13, 14, 15, 16, 17, 18, 19, 21, 20, 23, 22]
    assert joints.flip_permutation("spin24").tolist() == flip
    smpl = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22]
    assert joints.flip_permutation("smpl24").tolist() == smpl


def test_the_49_joints_are_spins_rows_of_its_54():
    """SPIN's table: 24 joints, 21 vertices, 9 regressed rows, then a selection of 49."""
    extra = [("extra", row) for row in range(9)]
    rows54 = [joints.SOURCES[name] for name in joints.names("smpl45")] + extra
    selection = [24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, *range(25, 35)]
    selection += [8, 5, 45, 46, 4, 7, 21, 19, 17, 16, 18, 20, *range(47, 54), 24, 26, 25, 28, 27]
    assert [joints.SOURCES[n] for n in joints.names("spin49")] == [rows54[i] for i in selection]


def test_landmarks_are_smplxs():
    from smplx.vertex_ids import vertex_ids

    theirs = vertex_ids["smplh"]
    short = {"eye": "eye", "ear": "ear"} | {f: f for f in ("thumb", "index", "middle", "ring")}
    for side in ("left", "right"):
        for ours, name in {**short, "pinky": "pinky"}.items():
            assert joints.LANDMARKS[f"{side}_{ours}"] == theirs[side[0] + name]
        for ours, name in (("big_toe", "BigToe"), ("small_toe", "SmallToe"), ("heel", "Heel")):
            assert joints.LANDMARKS[f"{side}_{ours}"] == theirs[side[0].upper() + name]
    assert joints.LANDMARKS["nose"] == theirs["nose"]


def test_the_14_evaluation_joints_are_the_official_rows():
    order = joints.mapping("h36m17", "h36m14")
    assert order.tolist() == [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]


def test_mapping_marks_what_the_source_lacks():
    mapping = joints.mapping("coco17", "all")
    names = np.array(joints.names("all"))
    assert set(names[mapping >= 0]) == set(joints.names("coco17"))
    assert mapping[joints.index("pelvis")] == -1
    assert mapping[joints.index("spin_left_eye")] == 1


def test_unknown_names_are_errors_that_name_joint_and_set():
    with pytest.raises(ValueError, match=r"'coco17' has no joint 'pelvis'"):
        joints.index("pelvis", "coco17")
    with pytest.raises(ValueError, match=r"no joint set 'coco'.*coco17"):
        joints.names("coco")
    assert joints.index(["pelvis", "left_hip"]) == [0, 1]
