"""What somebody did, in the files of other software, each read by a library that is not ours."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.free import free_body
from hmrkit.body.rigging import rig_and_bones
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.infer import bvh, coco, gltf, motion
from hmrkit.infer.tracks import Track, moved_body
from hmrkit.types import Body

NUM, FPS = 5, 12.0
CAMERA = np.array([[800, 0, 319.5], [0, 800, 239.5], [0, 0, 1.0]])
GLTF = np.array([1, -1, -1])


@pytest.fixture(scope="module")
def body_model():
    return free_body()


def made_track(seed=0, is_there=None):
    generator = torch.Generator().manual_seed(seed)
    pose = 0.3 * torch.randn(NUM, 24, 3, generator=generator, dtype=torch.float64)
    pose[:, 0] = torch.tensor([np.pi - 0.2, 0.1, 0.2])  # upright before a camera
    place = torch.tensor([0.2, 0.1, 4.0]) + 0.1 * torch.randn(NUM, 3, generator=generator)
    is_there = np.ones(NUM, bool) if is_there is None else np.array(is_there)
    return Track(
        identity=seed + 1,
        is_seen=is_there,
        is_there=is_there,
        rotations=axis_angle_to_rotmat(pose),
        betas=torch.randn(10, generator=generator, dtype=torch.float64),
        pelvis_cam=place.double(),
        box_img=np.zeros((NUM, 4), np.float32),
        score=np.full(NUM, 0.9, np.float32),
    )


def made_character(track, body_model):
    rig, bones = rig_and_bones(body_model, moved_body(track, body_model))
    character = gltf.Character(
        name=f"person_{track.identity}",
        rig=rig,
        rotations=track.rotations.numpy(),
        root_cam=track.pelvis_cam.numpy(),
        is_there=track.is_there,
        color=np.array([0.5, 0.7, 0.9]),
    )
    return character, bones


def test_one_frame_is_reproduced_exactly_and_several_nearly(body_model):
    body = moved_body(made_track(), body_model)
    still = Body(*(value[:1] for value in vars(body).values()))
    for part, limit in ((still, 2e-5), (body, 0.03)):
        rig, bones = rig_and_bones(body_model, part)
        rest = torch.cat([rig.vertices, torch.ones(len(rig.vertices), 1)], dim=1)
        skinned = torch.einsum("vj,tjrc,vc->tvr", rig.weights, bones, rest)
        error = (skinned - body_model(part).vertices).norm(dim=-1)
        assert float(error.max()) < limit
    assert float(error.mean()) < 0.004


# --- glb ------------------------------------------------------------------------------------------


def read_accessor(file, number):
    """An accessor of a pygltflib file as an array."""
    kinds = {5126: "<f4", 5125: "<u4", 5123: "<u2", 5121: "u1"}
    sizes = {"SCALAR": (), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}
    accessor = file.accessors[number]
    view = file.bufferViews[accessor.bufferView]
    data = file.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    shape = (accessor.count, *sizes[accessor.type])
    return np.frombuffer(data, kinds[accessor.componentType]).reshape(shape)


def play(file, skin_number, frame):
    """Joint matrices (J, 4, 4) of a skin at a key frame, by the rules of the glTF standard."""
    local = {}
    for number, node in enumerate(file.nodes):
        local[number] = {
            "translation": np.array(node.translation or [0, 0, 0.0]),
            "rotation": np.array(node.rotation or [0, 0, 0, 1.0]),
            "scale": np.ones(3),
        }
    animation = file.animations[0]
    for channel in animation.channels:
        sampler = animation.samplers[channel.sampler]
        times = read_accessor(file, sampler.input)
        key = int(np.argmin(np.abs(times - frame / FPS)))
        local[channel.target.node][channel.target.path] = read_accessor(file, sampler.output)[key]
    parent = {child: n for n, node in enumerate(file.nodes) for child in node.children or []}

    def world(number):
        matrix, node = np.eye(4), local[number]
        matrix[:3, :3] = Rotation.from_quat(node["rotation"]).as_matrix() * node["scale"]
        matrix[:3, 3] = node["translation"]
        return world(parent[number]) @ matrix if number in parent else matrix

    skin = file.skins[skin_number]
    inverse = read_accessor(file, skin.inverseBindMatrices).transpose(0, 2, 1)
    return np.stack([world(joint) @ inv for joint, inv in zip(skin.joints, inverse, strict=True)])


def skinned(file, person, frame):
    """Vertices of a person at a key frame."""
    attributes = file.meshes[person].primitives[0].attributes
    rest = read_accessor(file, attributes.POSITION)
    joints, weights = (
        read_accessor(file, getattr(attributes, n)) for n in ("JOINTS_0", "WEIGHTS_0")
    )
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    matrices = np.einsum("vk,vkrc->vrc", weights, play(file, person, frame)[joints])
    return np.einsum("vrc,vc->vr", matrices, np.c_[rest, np.ones(len(rest))])[:, :3]


@pytest.fixture(scope="module")
def animation(tmp_path_factory, body_model):
    """Two people, the second away in the third frame."""
    import pygltflib

    path = tmp_path_factory.mktemp("glb") / "two.glb"
    tracks = [made_track(0), made_track(1, [True, True, False, True, True])]
    characters, bones = zip(*(made_character(track, body_model) for track in tracks), strict=True)
    faces = body_model.faces.numpy()
    gltf.write_animation(path, characters, faces, FPS, CAMERA, (480, 640))
    return SimpleNamespace(
        path=path, file=pygltflib.GLTF2().load(path), characters=characters, bones=bones
    )


@pytest.mark.parametrize("person", [0, 1])
@pytest.mark.parametrize("frame", [0, 4])
def test_joint_matrices_of_the_glb_pose_the_mesh_as_the_body_does(animation, person, frame):
    rig, bones = animation.characters[person].rig, animation.bones[person][frame]
    rest = torch.cat([rig.vertices, torch.ones(len(rig.vertices), 1)], dim=1)
    expected = torch.einsum("vj,jrc,vc->vr", rig.weights, bones, rest).numpy() * GLTF
    np.testing.assert_allclose(skinned(animation.file, person, frame), expected, atol=1e-4)


def test_who_is_away_is_not_to_be_seen(animation):
    gone = skinned(animation.file, 1, 2)
    assert np.ptp(gone, axis=0).max() < 1e-6
    assert np.ptp(skinned(animation.file, 0, 2), axis=0).max() > 1


def test_the_glb_says_its_time_its_names_and_its_camera(animation):
    file = animation.file
    sampler = file.animations[0].samplers[0]
    assert file.accessors[sampler.input].max == pytest.approx([4 / FPS])
    names = [node.name for node in file.nodes]
    assert {"person_1", "person_2", "left_knee", "camera"} <= set(names)
    lens = file.cameras[0].perspective
    assert lens.yfov == pytest.approx(2 * np.arctan(240 / 800))
    assert lens.aspectRatio == pytest.approx(640 / 480)


def test_another_library_reads_the_glb_too(animation):
    scene = trimesh.load(animation.path, process=False)
    assert sorted(len(mesh.vertices) for mesh in scene.geometry.values()) == [6890, 6890]


def test_the_glb_follows_the_standard_where_readers_are_strict(animation):
    content = animation.path.read_bytes()
    assert len(content) % 4 == 0
    assert int.from_bytes(content[8:12], "little") == len(content)
    for accessor in animation.file.accessors:
        view = animation.file.bufferViews[accessor.bufferView]
        assert view.byteOffset % 4 == 0
    for mesh in animation.file.meshes:
        position = animation.file.accessors[mesh.primitives[0].attributes.POSITION]
        assert len(position.min) == len(position.max) == 3
    for channel in animation.file.animations[0].channels:
        sampler = animation.file.animations[0].samplers[channel.sampler]
        times, values = (animation.file.accessors[n].count for n in (sampler.input, sampler.output))
        assert times == values


# --- bvh ------------------------------------------------------------------------------------------


def test_bvh_puts_every_joint_where_the_body_has_it(tmp_path, body_model):
    from bvh import Bvh

    track = made_track()
    character, _ = made_character(track, body_model)
    path = tmp_path / "a.bvh"
    bvh.write_bvh(path, character.rig, character.rotations, character.root_cam, FPS)
    file = Bvh(path.read_text())
    assert file.nframes == NUM
    assert file.frame_time == pytest.approx(1 / FPS)
    assert set(file.get_joints_names()) == set(character.rig.names)
    expected = motion.joints_cam(track, body_model, "smpl24") * GLTF * 100

    def place(name, frame):
        """World rotation and place of a joint, cm."""
        node = file.get_joint(name)
        channels = file.joint_channels(name)
        values = dict(zip(channels, file.frame_joint_channels(frame, name, channels), strict=True))
        angles = [values[f"{axis}rotation"] for axis in "ZXY"]
        turn = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix()
        parent = file.joint_parent(name)
        if parent is None:
            return turn, np.array([values[f"{axis}position"] for axis in "XYZ"])
        parent_turn, parent_place = place(parent.name, frame)
        return parent_turn @ turn, parent_place + parent_turn @ np.array(
            file.joint_offset(node.name)
        )

    for frame in (0, NUM - 1):
        found = np.stack([place(name, frame)[1] for name in character.rig.names])
        np.testing.assert_allclose(found, expected[frame], atol=0.02)


# --- coco -----------------------------------------------------------------------------------------


def test_coco_json_is_read_by_cocos_own_library(tmp_path):
    from pycocotools.coco import COCO

    points = np.random.default_rng(1).uniform(0, 100, (2, 17, 2))
    pictures = [
        coco.Shown("clip/000001.jpg", (480, 640), points, [1, 2], np.array([0.9, np.nan])),
        coco.Shown("clip/000002.jpg", (480, 640), points[:0], [], np.zeros(0)),
    ]
    coco.write_coco(tmp_path / "c.json", pictures)
    read = COCO(tmp_path / "c.json")
    (person,) = read.loadCats(read.getCatIds())
    assert person["keypoints"][:3] == ["nose", "left_eye", "right_eye"]
    assert [12, 14] in person["skeleton"] or [14, 12] in person["skeleton"]
    first = read.loadAnns(read.getAnnIds(imgIds=1))
    assert [one["track_id"] for one in first] == [1, 2]
    found = np.reshape(first[1]["keypoints"], (17, 3))
    np.testing.assert_allclose(found[:, :2], points[1], atol=0.01)
    assert not read.getAnnIds(imgIds=2)
    json.loads((tmp_path / "c.json").read_text(), parse_constant=pytest.fail)  # no NaN


# --- npz ------------------------------------------------------------------------------------------


def made_clip():
    from pathlib import Path

    from hmrkit.infer.clip_files import Clip

    about = {"method": "hmr", "checkpoint": "last.ckpt"}
    return Clip(Path("clip.mp4"), FPS, NUM, (480, 640), CAMERA, about)


def test_npz_of_a_person_has_amass_keys_that_pose_the_body_upright(tmp_path, body_model):
    track = made_track()
    motion.write_motion(tmp_path / "p.npz", track, made_clip(), body_model, "coco17")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        read = dict(file)
    assert read.keys() == motion.MOTION_SCHEMA.keys()
    assert float(read["mocap_framerate"]) == FPS
    assert read["poses"].shape == (NUM, 72)

    def vertices(poses, trans):
        matrices = axis_angle_to_rotmat(torch.from_numpy(poses).view(NUM, 24, 3))
        betas = torch.from_numpy(read["betas"]).expand(NUM, -1)
        return body_model(
            Body(matrices[:, 0], matrices[:, 1:], betas, torch.from_numpy(trans))
        ).vertices.numpy()

    z_up = vertices(read["poses"], read["trans"])
    in_cam = read["poses"].copy()
    in_cam[:, :3] = read["root_orient_cam"]
    cam = vertices(in_cam, read["trans_cam"])
    np.testing.assert_allclose(z_up, cam[..., [0, 2, 1]] * [1, 1, -1], atol=1e-4)
    head, foot = (
        body_model.joints(moved_body(track, body_model))[:, joints.index(name, "smpl24")].numpy()
        for name in ("head", "left_foot")
    )
    assert (head[:, 1] < foot[:, 1]).all()  # y down
    rays = read["joints_cam"] @ read["intrinsics_img"].T
    np.testing.assert_allclose(read["keypoints_img"], rays[..., :2] / rays[..., 2:], atol=1e-2)
    expected = body_model(moved_body(track, body_model)).vertices.numpy()
    np.testing.assert_allclose(cam, expected, atol=1e-4)
