import numpy as np
import pytest
import trimesh

from hmrkit.infer import exports

FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
TETRAHEDRON = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0.2, 0.3, 1]], np.float32)
COLORS = np.array([[255, 0, 10], [20, 200, 30]], np.uint8)


def people_cam():
    shifts = np.array([[0.5, -1, 3], [-1, 0, 5]])
    return np.stack([TETRAHEDRON, 2 * TETRAHEDRON]) + shifts[:, None]


def made_people():
    rng = np.random.default_rng(0)
    sizes = {"N": 2, "J": 24, "K": 5, "V": 4, "F": 4}
    people = {}
    for key, (shape, _) in exports.PEOPLE_SCHEMA.items():
        names = [n for n in shape.strip("()").split(",") if n.strip()]
        people[key] = rng.random([sizes.get(n.strip()) or int(n) for n in names])
    text = {"image", "method", "checkpoint", "body"}
    return {k: np.array(f"a {k}") if k in text else v for k, v in people.items()}


def test_npz_holds_the_documented_keys_and_loads_without_pickle(tmp_path):
    people = made_people()
    exports.write_npz(tmp_path / "a.npz", people)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert set(file) == set(exports.PEOPLE_SCHEMA)
        for key, value in people.items():
            np.testing.assert_array_equal(file[key], value)
        assert str(file["image"]) == "a image"


def test_npz_with_a_missing_key_is_our_bug(tmp_path):
    people = made_people()
    del people["betas"]
    with pytest.raises(AssertionError, match="betas"):
        exports.write_npz(tmp_path / "a.npz", people)


def test_glb_holds_every_person_in_gltf_axes_with_colours(tmp_path):
    exports.write_glb(tmp_path / "a.glb", people_cam(), FACES, COLORS)
    scene = trimesh.load(tmp_path / "a.glb", process=False)
    assert set(scene.geometry) == {"person_0", "person_1"}
    for i, vertices in enumerate(people_cam()):
        mesh = scene.geometry[f"person_{i}"]
        np.testing.assert_allclose(mesh.vertices, vertices * [1, -1, -1], atol=1e-6)
        np.testing.assert_array_equal(mesh.faces, FACES)
        np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], np.tile(COLORS[i], (4, 1)))
        transform, _ = scene.graph[f"person_{i}"]
        np.testing.assert_array_equal(transform, np.eye(4))


def test_glb_is_in_front_of_a_gltf_camera_and_keeps_left_and_right(tmp_path):
    # hmrkit: x right, y down, z forward. glTF's camera: x right, y up, looks along -z.
    exports.write_glb(tmp_path / "a.glb", people_cam(), FACES, COLORS)
    mesh = trimesh.load(tmp_path / "a.glb", process=False).geometry["person_0"]
    assert (mesh.vertices[:, 2] < 0).all()
    assert mesh.vertices[1, 0] > mesh.vertices[0, 0]
    assert mesh.vertices[2, 1] < mesh.vertices[0, 1]
    assert mesh.volume * trimesh.Trimesh(TETRAHEDRON, FACES, process=False).volume > 0


def test_obj_holds_vertices_faces_and_colours(tmp_path):
    exports.write_obj(tmp_path / "a.obj", people_cam(), FACES, COLORS)
    mesh = trimesh.load(tmp_path / "a.obj", process=False, force="mesh", maintain_order=True)
    expected = people_cam().reshape(-1, 3) * [1, -1, -1]
    np.testing.assert_allclose(mesh.vertices, expected, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, np.concatenate([FACES, FACES + 4]))
    colors = mesh.visual.vertex_colors[:, :3].astype(int)
    assert np.abs(colors - np.repeat(COLORS, 4, axis=0)).max() <= 1


def test_colours_may_differ_per_vertex(tmp_path):
    colors = np.random.default_rng(0).integers(0, 256, (2, 4, 3), dtype=np.uint8)
    exports.write_glb(tmp_path / "a.glb", people_cam(), FACES, colors)
    mesh = trimesh.load(tmp_path / "a.glb", process=False).geometry["person_1"]
    np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], colors[1])
