"""The rasteriser against a ray caster and closed forms; the two backends against each other."""

import ctypes.util
import logging
import sys

import numpy as np
import pytest
import trimesh
from scipy.spatial import Delaunay
from scipy.spatial.transform import Rotation

from hmrkit.render import pyrender_backend, rasterize, render
from hmrkit.render.shading import Lights, light_surface, vertex_normals

CAMERA = np.array([[70.0, 0, 31.3], [0, 74.0, 29.6], [0, 0, 1]])
SIZE = (60, 64)


@pytest.fixture(autouse=True)
def _strict_floats():
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        yield


def _torus(seed: int, shift: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.torus(0.7, 0.3, major_sections=16, minor_sections=8)
    turn = Rotation.from_quat(np.random.default_rng(seed).normal(size=4))
    vertices = turn.apply(mesh.vertices) + shift
    return vertices.astype(np.float32), np.asarray(mesh.faces)


def _quad(left: float, top: float, right: float, bottom: float, depth: float = 2.0) -> np.ndarray:
    """A rectangle facing the camera with the given image corners in px."""
    pixels = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return np.column_stack([_rays(pixels)[:, :2] * depth, np.full(4, depth)]).astype(np.float32)


QUAD_FACES = np.array([[0, 2, 1], [0, 3, 2]])


def _rays(pixels: np.ndarray) -> np.ndarray:
    return np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(CAMERA).T


def _cast(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nearest front face of every pixel by intersecting all rays with all faces, in float64."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = _rays(np.column_stack([x.ravel(), y.ravel()]))
    a, b, c = vertices.astype(np.float64)[faces].transpose(1, 0, 2)
    normal = np.cross(b - a, c - a, axis=-1)
    facing = rays @ normal.T  # < 0: the face looks at us
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (normal * a).sum(1) / facing  # rays have z = 1
    point = rays[:, None] * depth[..., None]
    weights = np.stack(
        [
            np.einsum("nfk,fk->nf", np.cross(q - p, point - p, axis=-1), normal)
            for p, q in ((b, c), (c, a), (a, b))
        ],
        axis=2,
    )
    hit = (weights >= 0).all(2) & (facing < 0)
    depth = np.where(hit, depth, np.inf)
    face = depth.argmin(1)
    row = np.arange(len(rays))
    weights = weights[row, face] / (normal**2).sum(1)[face, None]
    depth = depth[row, face]
    return np.where(np.isfinite(depth), face, -1).reshape(SIZE), depth.reshape(SIZE), weights


@pytest.mark.parametrize("seed", range(4))
def test_face_ids_depth_and_barycentrics_equal_a_ray_casters(seed):
    vertices, faces = _torus(seed, (0.05, -0.1, 3.0))
    raster = rasterize.rasterize(vertices, faces, CAMERA, SIZE)
    face_id, depth, weights = _cast(vertices, faces)
    assert raster.visible_px[0] > 500
    np.testing.assert_array_equal(raster.face_id, face_id)
    np.testing.assert_allclose(raster.depth, depth, rtol=1e-5)
    np.testing.assert_allclose(raster.barycentric, weights[raster.pixel], atol=2e-4)
    np.testing.assert_array_equal(raster.corner, faces[face_id.ravel()[raster.pixel]])
    assert raster.person_id.max() == 0
    assert raster.visible_px[0] == raster.total_px[0] == (face_id >= 0).sum()


def test_people_are_merged_by_depth_and_counted():
    (one, faces), (two, _), (hidden, _) = (
        _torus(1, (0, 0, 3.0)),
        _torus(2, (0.4, 0.1, 3.2)),
        _torus(3, (0, 0, 50.0)),
    )
    people = np.stack([one, two, hidden])
    raster = rasterize.rasterize(people, faces, CAMERA, SIZE)
    offsets = len(one) * np.arange(3)[:, None, None]
    face_id, _, _ = _cast(people.reshape(-1, 3), (faces + offsets).reshape(-1, 3))
    person_id = np.where(face_id < 0, -1, face_id // len(faces))
    np.testing.assert_array_equal(raster.person_id, person_id)
    np.testing.assert_array_equal(raster.face_id, np.where(face_id < 0, -1, face_id % len(faces)))
    alone = [rasterize.rasterize(person, faces, CAMERA, SIZE) for person in people]
    np.testing.assert_array_equal(raster.total_px, [r.visible_px[0] for r in alone])
    np.testing.assert_array_equal(raster.visible_px, [(person_id == p).sum() for p in range(3)])
    assert raster.visible_px[1] < raster.total_px[1]
    points = raster.interpolate(people)
    np.testing.assert_allclose(points[:, 2], raster.depth.ravel()[raster.pixel], rtol=1e-5)


def test_depth_and_attributes_of_a_slanted_plane_are_perspective_correct():
    corners = np.array([[-9, -8, 12], [9, -8, 1.5], [9, 8, 1.5], [-9, 8, 12]], np.float32)
    raster = rasterize.rasterize(corners, QUAD_FACES, CAMERA, SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    rays = _rays(np.column_stack([x.ravel(), y.ravel()]))
    normal = np.cross(corners[1] - corners[0], corners[3] - corners[0], axis=-1).astype(np.float64)
    expected = (normal @ corners[0]) / (rays @ normal)
    assert (raster.face_id >= 0).all()
    np.testing.assert_allclose(raster.depth.ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(raster.interpolate(corners), rays * expected[:, None], atol=2e-4)


@pytest.mark.parametrize("grow", [-0.45, 0.0, 0.45])
def test_the_centre_of_a_pixel_is_at_integer_coordinates(grow):
    quad = _quad(9.5 - grow, 19.5 - grow, 14.5 + grow, 22.5 + grow)
    mask = rasterize.rasterize(quad, QUAD_FACES, CAMERA, SIZE).face_id >= 0
    expected = np.zeros(SIZE, bool)
    expected[20:23, 10:15] = True
    np.testing.assert_array_equal(mask, expected)


def test_shared_edges_leave_no_hole_and_cover_nothing_twice():
    rng = np.random.default_rng(0)
    pixels = np.concatenate(
        [rng.uniform(0, 60, (80, 2)), [[-20, -20], [90, -21], [91, 88], [-19, 90]]]
    )
    faces = Delaunay(pixels).simplices
    a, b, c = pixels[faces].transpose(1, 0, 2)
    turn = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    faces[turn > 0] = faces[turn > 0][:, ::-1]
    vertices = (_rays(pixels) * rng.uniform(2, 4, (84, 1))).astype(np.float32)
    whole = rasterize.rasterize(vertices, faces, CAMERA, SIZE)
    assert (whole.face_id >= 0).all()
    alone = [rasterize.rasterize(vertices, faces[[i]], CAMERA, SIZE) for i in range(len(faces))]
    assert sum(int(r.visible_px[0]) for r in alone) == SIZE[0] * SIZE[1]


def test_no_holes_where_edges_run_through_pixel_centres():
    y, x = np.mgrid[-2:64:4, -2:68:4]
    vertices = (_rays(np.column_stack([x.ravel(), y.ravel()])) * 3).astype(np.float32)
    number = np.arange(x.size).reshape(x.shape)
    a, b, c, d = (
        n.ravel() for n in (number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1])
    )
    faces = np.concatenate([np.column_stack([a, c, b]), np.column_stack([a, d, c])])
    raster = rasterize.rasterize(vertices, faces, CAMERA, SIZE)
    assert (raster.face_id >= 0).all()
    np.testing.assert_allclose(raster.depth, 3, rtol=1e-6)


@pytest.mark.parametrize("pairs", [1, 1 << 20])
def test_at_equal_depth_the_higher_face_index_wins(monkeypatch, pairs):
    monkeypatch.setattr(rasterize, "MAX_PAIRS", pairs)
    quad = _quad(5, 5, 20, 20)
    faces = np.concatenate([QUAD_FACES, QUAD_FACES])
    face_id = rasterize.rasterize(quad, faces, CAMERA, SIZE).face_id
    assert set(np.unique(face_id)) == {-1, 2, 3}


def test_zero_area_and_tiny_faces_do_no_harm():
    vertices, faces = _torus(0, (0, 0, 3.0))
    expected = rasterize.rasterize(vertices, faces, CAMERA, SIZE)
    tiny = vertices[:1] + np.array([[0, 0, 0], [1e-7, 0, 0], [0, 1e-7, 0]], np.float32)
    extra = np.array([[0, 0, 1], [5, 5, 5], [0, 1, 0], *(len(vertices) + np.array([[0, 1, 2]]))])
    raster = rasterize.rasterize(
        np.concatenate([vertices, tiny]), np.concatenate([faces, extra]), CAMERA, SIZE
    )
    assert np.isfinite(raster.barycentric).all()
    np.testing.assert_allclose(raster.barycentric.sum(1), 1, atol=1e-6)
    assert (raster.face_id != expected.face_id).sum() <= 1
    np.testing.assert_allclose(raster.depth, expected.depth, rtol=1e-5)


def test_faces_that_cross_the_near_plane_vanish_whole():
    quad = _quad(10, 10, 50, 50)
    quad[0, 2] = 0.04  # the corner of both triangles
    assert (rasterize.rasterize(quad, QUAD_FACES, CAMERA, SIZE).face_id == -1).all()
    quad = _quad(10, 10, 50, 50)
    quad[1] *= -1  # one triangle has a corner behind the camera
    assert set(np.unique(rasterize.rasterize(quad, QUAD_FACES, CAMERA, SIZE).face_id)) == {-1, 1}


def test_back_faces_are_seen_only_when_asked_for():
    quad, away = _quad(10, 10, 50, 50), QUAD_FACES[:, ::-1]
    assert (rasterize.rasterize(quad, away, CAMERA, SIZE).face_id == -1).all()
    both = rasterize.rasterize(quad, away, CAMERA, SIZE, cull_back=False)
    front = rasterize.rasterize(quad, QUAD_FACES, CAMERA, SIZE)
    np.testing.assert_array_equal(both.face_id >= 0, front.face_id >= 0)
    np.testing.assert_allclose(both.interpolate(quad), front.interpolate(quad), atol=1e-6)


def test_working_in_pieces_changes_nothing(monkeypatch):
    people = np.stack([_torus(1, (0, 0, 3.0))[0], _torus(2, (0.3, 0, 3.1))[0]])
    faces = _torus(1, (0, 0, 0))[1]
    whole = rasterize.rasterize(people, faces, CAMERA, SIZE)
    picture = render.render(people, faces, CAMERA, SIZE, backend="numpy", supersample=2)
    monkeypatch.setattr(rasterize, "MAX_PAIRS", 50)
    monkeypatch.setattr(render, "STRIP_PX", 7 * 4 * SIZE[1])
    pieces = rasterize.rasterize(people, faces, CAMERA, SIZE)
    strips = render.render(people, faces, CAMERA, SIZE, backend="numpy", supersample=2)
    for name in ("face_id", "person_id", "depth", "barycentric", "visible_px", "total_px"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))
    for name in ("person_id", "alpha"):
        np.testing.assert_array_equal(getattr(strips, name), getattr(picture, name))
    assert np.abs(strips.rgb.astype(int) - picture.rgb).max() <= 1


def test_not_finite_vertices_are_refused():
    vertices, faces = _torus(0, (0, 0, 3.0))
    vertices[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        rasterize.rasterize(vertices, faces, CAMERA, SIZE)
    with pytest.raises(ValueError, match=r"person \[1\]"):
        render.render([np.ones_like(vertices), vertices], faces, CAMERA, SIZE, backend="numpy")


def test_normals_of_a_sphere_are_its_radii_for_each_person():
    mesh = trimesh.creation.icosphere(subdivisions=3)
    radii = np.asarray(mesh.vertices, np.float32)
    people = np.stack([radii, 2 * radii + 5])
    normals = vertex_normals(people, np.asarray(mesh.faces))
    np.testing.assert_allclose(normals, np.stack([radii, radii]), atol=0.02)
    lonely = np.concatenate([radii, [[9, 9, 9]]])
    np.testing.assert_array_equal(vertex_normals(lonely, np.asarray(mesh.faces))[-1], 0)


def test_lambert_light_follows_the_cosine():
    angle = np.linspace(0, np.pi, 9)
    normals = np.column_stack([np.sin(angle), 0 * angle, -np.cos(angle)]).astype(np.float32)
    lights = Lights(np.array([[0, 0, -1.0]]), np.array([[1.0, 0.5, 0]]), 0.1, 1.0, 0.0, 1.0, 0.0)
    colors = np.full((9, 3), 0.5, np.float32)
    lit = light_surface(3 * normals, normals, colors, lights)
    cosine = np.maximum(np.cos(angle), 0)
    np.testing.assert_allclose(lit, 0.5 * (0.1 + cosine[:, None] * [1.0, 0.5, 0]), atol=1e-6)


def test_supersampling_blends_half_covered_pixels_with_the_photo():
    quad = _quad(9.5, 19.5, 14.0, 22.5)  # the right column of pixels is covered by half
    photo = np.zeros((*SIZE, 3), np.uint8)
    photo[..., 0] = 200
    white = Lights(np.zeros((0, 3)), np.zeros(0), 1.0, 1.0, 0.0)
    picture = render.render(
        [quad],
        QUAD_FACES,
        CAMERA,
        SIZE,
        colors=[[0, 1, 0]],
        lights=white,
        background=photo,
        backend="numpy",
        supersample=2,
    )
    assert picture.alpha[21, 12] == 1
    assert picture.alpha[21, 14] == 0.5
    assert picture.alpha.sum() == 3 * 4.5
    assert picture.rgb[21, 12].tolist() == [0, 255, 0]
    assert picture.rgb[21, 14].tolist() == [100, 128, 0]
    assert picture.rgb[0, 0].tolist() == [200, 0, 0]
    np.testing.assert_allclose(picture.normal[21, 12], [0, 0, -1], atol=1e-6)
    assert photo[..., 0].min() == 200


def test_vertex_colours_reach_their_pixels():
    quad = _quad(10, 10, 50, 50)
    colors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
    white = Lights(np.zeros((0, 3)), np.zeros(0), 1.0, 1.0, 0.0)
    rgb = render.render(
        [quad], QUAD_FACES, CAMERA, SIZE, colors=[colors], lights=white, backend="numpy"
    ).rgb
    for (y, x), color in zip(((11, 11), (11, 49), (49, 49), (49, 11)), colors, strict=True):
        assert np.abs(rgb[y, x] - 255 * color).max() < 15


def test_no_people_leaves_the_background():
    picture = render.render([], QUAD_FACES, CAMERA, SIZE, background=np.uint8([1, 2, 3]))
    assert (picture.rgb == [1, 2, 3]).all()
    assert picture.alpha.max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "opengl"}, "opengl.*use one of auto, numpy, pyrender"),
        ({"colors": [[1, 2]]}, r"one \(3,\) or \(4, 3\) array per person"),
        ({"colors": [[255, 0, 0]]}, "divide 8-bit colours by 255"),
        ({"background": np.zeros((3, 3, 3), np.uint8)}, "background must be uint8"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        render.render(
            [_quad(1, 1, 9, 9)], QUAD_FACES, CAMERA, SIZE, **{"backend": "numpy"} | options
        )


@pytest.fixture
def _no_decision():
    render._auto_backend.cache_clear()
    yield
    render._auto_backend.cache_clear()


@pytest.mark.usefixtures("_no_decision")
@pytest.mark.parametrize(
    ("found", "backend"),
    [((None, "OpenGL is software: llvmpipe"), "numpy"), (("NVIDIA H200", ""), "pyrender")],
)
def test_auto_decides_and_says_so_once(monkeypatch, caplog, found, backend):
    monkeypatch.setattr(pyrender_backend, "hardware_renderer", lambda: found)
    with caplog.at_level(logging.INFO, logger="hmrkit"):
        assert [render._auto_backend(), render._auto_backend()] == [backend] * 2
    assert len(caplog.records) == 1
    assert backend in caplog.text


def test_software_opengl_is_not_hardware(monkeypatch):
    monkeypatch.setattr(pyrender_backend, "opengl_renderer", lambda: "llvmpipe (LLVM 15.0.6)")
    assert pyrender_backend.hardware_renderer()[0] is None


def test_asking_for_pyrender_without_opengl_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrender", None)
    pyrender_backend._renderer.cache_clear()
    with pytest.raises(RuntimeError, match=r"apt-get install libegl1 libgl1.*backend='numpy'"):
        render.render([_quad(1, 1, 9, 9)], QUAD_FACES, CAMERA, SIZE, backend="pyrender")


needs_opengl = pytest.mark.skipif(
    not (ctypes.util.find_library("EGL") and ctypes.util.find_library("GL")),
    reason="no OpenGL library: apt-get install libegl1 libgl1",
)


@needs_opengl
@pytest.mark.parametrize("size", [(180, 240), (241, 163)])
def test_pyrender_and_numpy_draw_the_same_picture(size):
    camera = np.array([[250.0, 0, 118.2], [0, 255, 92.7], [0, 0, 1]])
    shapes = [(0.05, -0.1, 3.0), (0.5, 0.1, 3.6), (-0.6, 0.3, 4.2)]
    people = [_torus(seed, shift)[0] for seed, shift in enumerate(shapes)]
    faces = _torus(0, (0, 0, 0))[1]
    background = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    options = {"background": background}
    ours = render.render(people, faces, camera, size, backend="numpy", supersample=4, **options)
    theirs = render.render(people, faces, camera, size, backend="pyrender", **options)
    for person in range(-1, 3):
        a, b = ours.person_id == person, theirs.person_id == person
        assert a.sum() > 1000
        assert (a & b).sum() / (a | b).sum() > 0.999
    both = (ours.person_id == theirs.person_id) & (ours.person_id >= 0)
    np.testing.assert_allclose(theirs.depth[both], ours.depth[both], atol=2e-4)
    assert (np.isinf(theirs.depth) == (theirs.person_id < 0)).all()
    assert np.abs(ours.alpha - theirs.alpha).mean() < 0.002
    assert np.abs(ours.rgb[both].astype(int) - theirs.rgb[both]).mean() < 4  # light per vertex
    np.testing.assert_array_equal(theirs.rgb[theirs.alpha == 0], background[theirs.alpha == 0])


@needs_opengl
def test_pyrender_draws_again_and_again_with_one_renderer():
    vertices, faces = _torus(0, (0, 0, 3.0))
    first = render.render([vertices], faces, CAMERA, SIZE, backend="pyrender")
    render.render([vertices + 0.1, vertices], faces, CAMERA, (90, 30), backend="pyrender")
    again = render.render([vertices], faces, CAMERA, SIZE, backend="pyrender")
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert pyrender_backend.opengl_renderer()
