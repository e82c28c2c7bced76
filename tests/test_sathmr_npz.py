"""SAT-HMR's annotation files in their four layouts, and folders of images without labels."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.record import decode_image
from hmrkit.data.scenes import Scenes
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.image_folder import ImageFolder
from hmrkit.data.sources.official import Skipped
from hmrkit.data.sources.sathmr_npz import SatHmrNpz
from official_files import convert, pose_bodies, project, read_all, write_bodies, write_photo

SIZE_HW = (120, 160)
K = np.array([[150.0, 0, 80], [0, 150, 60], [0, 0, 1]])
SMPL45 = joints.index(joints.names("smpl45"))
RNG = np.random.default_rng(3)
PEOPLE = 4
POSE = RNG.normal(0, 0.3, (PEOPLE, 72))
BETAS = RNG.normal(size=(PEOPLE, 10))
TURN = Rotation.from_rotvec([0.4, -1.9, 0.7]).as_matrix()
MOVE = np.array([0.3, -0.1, 0.8])
# Where the bodies' origins come to lie in the camera; the third one is off the picture.
PLACES = np.array([[-0.6, 0, 4.0], [0.5, 0.1, 4.6], [9.0, 0, 4.0], [0.1, 0, 5.0]])
TRANSL = (PLACES - MOVE) @ TURN


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bodies(tmp_path_factory.mktemp("bodies"))


def save(folder: Path, entries: dict) -> None:
    """As upstream writes it: a pickled dict in an npz."""
    np.savez(folder / "annots.npz", annots=entries)


def converter(layout: str, bodies: str, turned: str | None = None) -> SatHmrNpz:
    return SatHmrNpz("annots.npz", "images", layout, turned, bodies)


def agora_entry() -> dict:
    fits = [
        {
            "betas": np.append(BETAS[i], 0.5)[None],
            "global_orient": POSE[i, :3].reshape(1, 1, 3),
            "body_pose": POSE[i, 3:].reshape(1, 23, 3),
            "transl": TRANSL[i : i + 1],
        }
        for i in range(PEOPLE)
    ]
    return {
        "isValid": [True, False, True, True],
        "cam_intrinsics": K[None],
        "cam_rot": [TURN] * PEOPLE,
        "cam_trans": [MOVE] * PEOPLE,
        "smpl_gt": fits,
        "kid": [False] * PEOPLE,
    }


def bedlam_entry() -> dict:
    return {
        "cam_int": K,
        "cam_rot": [TURN] * 2,
        "cam_trans": [MOVE] * 2,
        "shape": list(BETAS[:2]),
        "pose_world": list(POSE[:2]),
        "trans_world": list(TRANSL[:2]),
    }


def posed_entry(**more: object) -> dict:
    parts = {
        "betas": BETAS[:2],
        "global_orient": POSE[:2, :3],
        "body_pose": POSE[:2, 3:],
        "transl": TRANSL[:2],
    }
    tensors = {name: torch.tensor(part, dtype=torch.float32) for name, part in parts.items()}
    camera = {"cam_intrinsics": K, "cam_rot": TURN.tolist(), "cam_trans": MOVE.tolist()}
    return {**tensors, **camera, **more}


def neural_entry() -> list[dict]:
    return [
        {
            "smpl_param": {
                "shape": BETAS[i].tolist(),
                "pose": POSE[i].tolist(),
                "trans": [0.1 * i, 0.0, 20.0 + i],
            },
            "cam_param": {"focal": [900.0 + 100 * i, 905.0], "princpt": [80.0 + 3 * i, 58.0]},
        }
        for i in range(2)
    ]


def check_person(shards: ShardSet, bodies: str, row: int, person: int, gender: int = -1) -> None:
    """Row ``row`` of the first record is ``person``, posed in the world and moved to the camera."""
    sample = shards.read(0)
    pose, betas = POSE[person].reshape(1, 24, 3), BETAS[person : person + 1]
    read = GenderedBodies(bodies)
    world = pose_bodies(read, pose, betas, TRANSL[person : person + 1], gender)
    expected = world.vertices[0].numpy() @ TURN.T + MOVE
    labels = (sample[name][row : row + 1] for name in ("pose", "betas", "transl"))
    mesh = pose_bodies(read, *labels, gender)
    np.testing.assert_allclose(mesh.vertices[0].numpy(), expected, atol=3e-5)
    points = read[gender].joints_from_mesh(mesh, "all")[0].numpy()
    np.testing.assert_allclose(sample["keypoints_world"][row, :, :3], points, atol=2e-5)
    pixels = project(points, K)
    np.testing.assert_allclose(sample["keypoints_img"][row, :, :2], pixels, atol=5e-3)
    body = sample["keypoints_img"][row, SMPL45, :2]
    tight = [*body.min(axis=0), *body.max(axis=0)]
    np.testing.assert_array_equal(sample["box_img"][row], tight)
    assert sample["gender"][row] == gender


def test_valid_people_of_agora_who_are_seen_make_a_record(tmp_path: Path, bodies: str):
    stored = write_photo(tmp_path / "images" / "a_1280x720.png", SIZE_HW)
    save(tmp_path, {"a_1280x720.png": agora_entry()})
    shards, left_out = convert(converter("agora", bodies), tmp_path, tmp_path / "shards")
    assert left_out == {
        "somebody in an image: marked as invalid": 1,
        "somebody in an image: outside of it": 1,
    }
    sample = shards.read(0)
    assert sample["key"] == "a_1280x720"
    assert shards.read_files(0)["0.png"] == stored
    assert sample["has_pose"].tolist() == [True, True] == sample["has_betas"].tolist()
    np.testing.assert_array_equal(sample["world_to_camera"], np.eye(4)[None])
    np.testing.assert_array_equal(sample["intrinsics"], np.float32(K)[None])
    check_person(shards, bodies, 0, 0)
    check_person(shards, bodies, 1, 3)


def test_closeups_of_bedlam_are_stood_upright(tmp_path: Path, bodies: str):
    names = ["x_closeup_6fps/png/s/s_0000.png", "x_6fps/png/s/s_0000.png"]
    for name in names:
        write_photo(tmp_path / "images" / name, SIZE_HW)
    save(tmp_path, {name: bedlam_entry() for name in names})
    shards, left_out = convert(converter("bedlam", bodies, "closeup"), tmp_path, tmp_path / "s")
    assert left_out == {}
    plain, closeup = read_all(shards)  # sorted by name
    assert plain["images"][0].shape == (*SIZE_HW, 3)
    lying = decode_image((tmp_path / "images" / names[0]).read_bytes())
    upright = cv2.rotate(lying, cv2.ROTATE_90_CLOCKWISE)
    assert closeup["images"][0].shape == upright.shape
    difference = np.abs(closeup["images"][0].astype(int) - upright)
    assert difference.mean() < 3  # a new JPEG
    np.testing.assert_array_equal(closeup["keypoints_img"], plain["keypoints_img"])
    check_person(shards, bodies, 1, 1)


@pytest.mark.parametrize(
    ("genders", "codes"),
    [({"genders": ["m", "F"]}, [0, 1]), ({"gender": ["Female", "male"]}, [1, 0]), ({}, [-1, -1])],
)
def test_bodies_have_the_gender_that_is_given(
    tmp_path: Path, bodies: str, genders: dict, codes: list[int]
):
    write_photo(tmp_path / "images" / "seq" / "image_00000.jpg", SIZE_HW)
    save(tmp_path, {"seq/image_00000.jpg": posed_entry(**genders)})
    shards, _ = convert(converter("posed", bodies), tmp_path, tmp_path / "shards")
    assert shards.read(0)["key"] == "seq-image_00000"
    for person, code in enumerate(codes):
        check_person(shards, bodies, person, person, code)


@pytest.fixture(scope="module")
def neural(bodies: str, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("neural")
    write_photo(folder / "images" / "000000000009.jpg", SIZE_HW)
    save(folder, {"000000000009.jpg": neural_entry()})
    return convert(converter("neural_annot", bodies), folder, folder / "shards")[0]


def test_people_of_neural_annot_keep_cameras_of_their_own(neural: ShardSet):
    sample = neural.read(0)
    assert np.isnan(sample["intrinsics"]).all()
    for person, entry in enumerate(neural_entry()):
        camera, matrix = entry["cam_param"], np.eye(3)
        matrix[[0, 1], [0, 1]], matrix[:2, 2] = camera["focal"], camera["princpt"]
        np.testing.assert_array_equal(sample["intrinsics_of_view"][person], np.float32(matrix))
        pixels = project(sample["keypoints_world"][person, :, :3].astype(np.float64), matrix)
        np.testing.assert_allclose(sample["keypoints_img"][person, :, :2], pixels, atol=5e-3)


def test_a_batch_says_the_camera_of_every_view(neural: ShardSet, tmp_path: Path, bodies: str):
    write_photo(tmp_path / "images" / "a.png", SIZE_HW)
    save(tmp_path, {"a.png": agora_entry()})
    shared = convert(converter("agora", bodies), tmp_path, tmp_path / "shards")[0]
    cut = Scenes(long_side_px=112, size_divisor=28)
    batch = collate([cut(shared.read(0)), cut(neural.read(0))])
    own = neural.read(0)["intrinsics_of_view"]
    expected = np.concatenate([np.float32([K, K]), own])
    np.testing.assert_array_equal(batch["intrinsics_of_view"], expected)
    assert torch.isnan(batch["intrinsics"][1]).all()
    crop = collate([Crops((64, 64))(neural.read(0), view) for view in (0, 1)])
    np.testing.assert_array_equal(crop["intrinsics"], own)  # a crop shows one person


def test_images_without_anybody_to_see_are_skipped_by_reason(tmp_path: Path, bodies: str):
    nobody = agora_entry() | {"isValid": [False] * PEOPLE}
    outside = agora_entry() | {"isValid": [False, False, True, False]}
    for name in ("nobody.png", "outside.png", "seen.png"):
        write_photo(tmp_path / "images" / name, SIZE_HW)
    entries = {"nobody.png": nobody, "outside.png": outside, "gone.png": agora_entry()}
    save(tmp_path, {**entries, "seen.png": agora_entry()})
    shards, left_out = convert(converter("agora", bodies), tmp_path, tmp_path / "shards")
    assert [sample["key"] for sample in read_all(shards)] == ["seen"]
    assert left_out["nobody in the image is valid"] == 1
    assert left_out["nobody is inside the image"] == 1
    assert left_out["image file is missing"] == 1


def test_who_stands_behind_the_camera_is_not_in_the_image(tmp_path: Path, bodies: str):
    entry = bedlam_entry()
    behind = (np.array([0.0, 0, -4]) - MOVE) @ TURN
    entry["trans_world"] = [TRANSL[0], behind]
    write_photo(tmp_path / "images" / "a.png", SIZE_HW)
    save(tmp_path, {"a.png": entry})
    shards, left_out = convert(converter("bedlam", bodies), tmp_path, tmp_path / "shards")
    assert left_out == {"somebody in an image: outside of it": 1}
    assert len(shards.read(0)["pose"]) == 1


def test_wrong_files_and_layouts_are_named(tmp_path: Path, bodies: str):
    with pytest.raises(ValueError, match="layout=smpl: expected one of agora, bedlam"):
        converter("smpl", bodies)
    with pytest.raises(FileNotFoundError, match=r"holds nothing; expected annots\.npz.*README"):
        converter("agora", bodies).open(tmp_path)
    write_photo(tmp_path / "images" / "a.png", SIZE_HW)
    save(tmp_path, {"a.png": bedlam_entry()})
    with pytest.raises(ValueError, match=r"'a\.png' holds \['cam_int'.*not the layout agora"):
        converter("agora", bodies).open(tmp_path)
    np.savez(tmp_path / "annots.npz", annots=np.zeros(3))
    with pytest.raises(ValueError, match="annots is no dict of images"):
        converter("agora", bodies).open(tmp_path)
    np.savez(tmp_path / "annots.npz", pose=np.zeros(3))
    with pytest.raises(ValueError, match=r"has \['pose'\]; expected \['annots'\] too"):
        converter("agora", bodies).open(tmp_path)


def test_a_folder_of_images_becomes_scenes_without_people(tmp_path: Path):
    for name in ("b.jpg", "a.png", "deeper/c.png"):
        write_photo(tmp_path / "test" / name, SIZE_HW)
    (tmp_path / "test" / "skip_me.bmp").write_bytes(b"BM")
    shards, _ = convert(ImageFolder("test", "Get it."), tmp_path, tmp_path / "shards")
    assert [sample["key"] for sample in read_all(shards)] == ["a", "b"]
    cut = Scenes(long_side_px=112, size_divisor=28, min_visible_joints=4)
    batch = collate([cut(sample) for sample in read_all(shards)])
    assert batch["image"].shape == (2, 3, 84, 112)
    assert len(batch["has_pose"]) == 0 == len(batch["keypoints_crop"])
    with pytest.raises(FileNotFoundError, match=r"expected photos/.*Get it\."):
        ImageFolder("photos", "Get it.").open(tmp_path)
    (tmp_path / "test" / "a.png").unlink()
    records = ImageFolder("test", "Get it.").open(tmp_path)
    (tmp_path / "test" / "b.jpg").unlink()
    with pytest.raises(Skipped, match="image file is missing"):
        records[0]
