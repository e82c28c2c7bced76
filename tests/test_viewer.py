import json
import re

import cv2
import numpy as np
import pytest

from hmrkit.body.free import free_body
from hmrkit.render import draw, viewer
from made_pages import CHROMIUM, screenshot

SIZE_HW = (300, 400)
CAMERA = np.array([[450, 0, 199.5], [0, 450, 140], [0, 0, 1.0]])
BACKGROUND = np.full((*SIZE_HW, 3), 255, np.uint8)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


def two_people():
    body = free_body()
    vertices = body(body.mean_body(2)).vertices.numpy()
    places = np.array([[-0.5, 0, 4], [0.4, 0.1, 5]], np.float32)
    return vertices + places[:, None], body.faces.numpy()


def data_of(figure):
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', figure)
    return json.loads(content)


def bare_page(path, figure):
    """The view in the top left corner, one CSS pixel per pixel of the photo."""
    head = "<!doctype html><style>body{margin:0}.hmr-stage{border-radius:0!important}</style>"
    path.write_text(head + figure + viewer.script())
    return path


def is_body(picture):
    """Where it is coloured: neither the white photo nor the grey of a button."""
    return np.ptp(picture[: SIZE_HW[0]].astype(int), axis=2) > 30


def jpeg():
    return cv2.imencode(".jpg", BACKGROUND)[1].tobytes()


def test_a_page_needs_no_other_file_and_no_network():
    vertices, faces = two_people()
    page = viewer.page("a <b>", viewer.figure(vertices, faces, picture=jpeg()))
    assert not re.findall(r"(?:src|href)=[\"']?(?!data:)\w", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "a &lt;b&gt;" in page


def test_vertices_are_kept_to_a_tenth_of_a_millimetre():
    import base64

    vertices, faces = two_people()
    person = data_of(viewer.figure(vertices, faces))["people"][1]
    read = np.frombuffer(base64.b64decode(person["vertices"]), "<u2").reshape(-1, 3)
    np.testing.assert_allclose(read * person["step"] + person["low"], vertices[1], atol=1e-4)


def test_a_name_cannot_break_out_of_its_page():
    vertices, faces = two_people()
    figure = viewer.figure(vertices, faces, names=["</script><b>", "b"])
    assert data_of(figure)["people"][0]["name"] == "</script><b>"


@needs_browser
def test_the_camera_view_shows_people_where_the_renderer_draws_them(tmp_path):
    vertices, faces = two_people()
    figure = viewer.figure(vertices, faces, intrinsics_img=CAMERA, size_hw=SIZE_HW, picture=jpeg())
    page = bare_page(tmp_path / "page.html", figure)
    shown = is_body(screenshot(page, (400, 420)))
    expected = is_body(draw.overlay(BACKGROUND, list(vertices), faces, CAMERA, backend="numpy"))
    assert (shown & expected).sum() / (shown | expected).sum() > 0.97
    turned = is_body(screenshot(page, (400, 420), "yaw=90"))
    assert turned.sum() > 1000
    assert (shown & turned).sum() / (shown | turned).sum() < 0.5


@needs_browser
def test_a_frame_shows_people_as_its_joint_matrices_pose_them(tmp_path):
    vertices, faces = two_people()
    weights = np.zeros((vertices.shape[1], 24), np.float32)
    weights[:, 5], weights[:, 7] = 0.25, 0.75
    matrices = np.zeros((2, 24, 3, 4), np.float32)
    matrices[:, :, range(3), range(3)] = 1
    matrices[1, 5, 0, 3], matrices[1, 7, 0, 3] = 0.4, 0.0  # a quarter of it moves to the right
    motion = viewer.Motion(weights, matrices, np.array([True, True]))
    gone = viewer.Motion(weights, matrices, np.array([True, False]))
    figure = viewer.figure(
        vertices,
        faces,
        motions=[motion, gone],
        intrinsics_img=CAMERA,
        size_hw=SIZE_HW,
        picture=jpeg(),
    )
    shown = is_body(screenshot(bare_page(tmp_path / "p.html", figure), (400, 420), "frame=1"))
    moved = [vertices[0] + np.array([0.1, 0, 0], np.float32)]
    expected = is_body(draw.overlay(BACKGROUND, moved, faces, CAMERA, backend="numpy"))
    assert (shown & expected).sum() / (shown | expected).sum() > 0.97
