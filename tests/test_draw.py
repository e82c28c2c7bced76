"""Pictures for people: what is drawn where, and that inputs stay untouched."""

import cv2
import numpy as np
import pytest
import trimesh

from hmrkit.body.free import free_body
from hmrkit.render import draw
from hmrkit.render.rasterize import rasterize
from hmrkit.render.render import render

CAMERA = np.array([[70.0, 0, 31.3], [0, 74.0, 29.6], [0, 0, 1]])
SIZE = (60, 64)


def test_overlay_touches_only_the_bodies_and_not_its_input():
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.8)
    vertices, faces = ball.vertices + np.array([0, 0, 3.0]), np.asarray(ball.faces)
    photo = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    before = photo.copy()
    result = draw.overlay(photo, [vertices], faces, CAMERA, backend="numpy")
    np.testing.assert_array_equal(photo, before)
    changed = (result != photo).any(2)
    body = rasterize(vertices, faces, CAMERA, SIZE).face_id >= 0
    assert changed[body].mean() > 0.98
    assert not changed[~cv2.dilate(body.astype(np.uint8), np.ones((3, 3))).astype(bool)].any()
    np.testing.assert_array_equal(draw.overlay(photo, [], faces, CAMERA), photo)


def test_side_view_looks_from_the_cameras_right_and_shows_everyone():
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    near, far = np.array([0, 0, 3.0]), np.array([0, 0.2, 6.0])
    people, faces = [ball.vertices + near, ball.vertices + far], np.asarray(ball.faces)
    colors = [[1, 0, 0], [0, 0, 1]]
    for angle in (0, 37, 90, 200):
        view = draw.side_view(people, faces, angle_deg=angle, colors=colors, size_hw=(80, 120))
        border = np.ones((80, 120), bool)
        border[1:-1, 1:-1] = False
        assert (view[border] == 255).all()
    view = draw.side_view(people, faces, colors=colors, size_hw=(80, 120)).astype(int)
    columns = np.arange(120)
    red, blue = view[..., 0] - view[..., 2], view[..., 2] - view[..., 0]
    assert columns[(red > 50).any(0)].mean() < columns[(blue > 50).any(0)].mean()


def test_skeleton_skips_absent_joints_and_hits_the_others():
    image = np.zeros((100, 100, 3), np.uint8)
    keypoints = np.array([[20, 20, 1], [80, 20, 0.5], [50, 90, 0], [np.nan, 5, 1], [1e9, 0, 1]])
    drawn = draw.draw_skeleton(image, keypoints, [(0, 1), (1, 2), (0, 3), (0, 4)])
    assert image.max() == 0
    assert (drawn[20, [20, 50, 80]].max(1) > 100).all()
    assert drawn[40:].max() == 0
    assert draw.draw_skeleton(image, keypoints[:, :2], [(1, 2)])[90, 50].max() > 100
    assert draw.draw_skeleton(image, keypoints, [(0, 1)], min_confidence=0.6)[20, 50].max() == 0


def test_box_is_drawn_at_its_place_even_outside_the_image():
    image = np.zeros((100, 120, 3), np.uint8)
    drawn = draw.draw_box(image, [30, 40, 90, 80], label="p 0.93", color=(255, 0, 0))
    border = drawn[[40, 60, 80], [60, 90, 60]]
    assert (border[:, 0] > 200).all()
    assert (border[:, 1:] < 20).all()
    assert drawn[60, 60].max() == 0
    assert image.max() == 0
    draw.draw_box(image, [-1e7, -50, 1e7, 500], label="x")


def test_contact_sheet_holds_every_image_uncropped():
    images = [np.full((40, 60, 3), 10, np.uint8), np.full((80, 30, 3), 90, np.uint8)] * 2
    sheet = draw.contact_sheet(images, 3, cell_hw=(80, 60), gap_px=2)
    assert sheet.shape == (2 * 82 + 2, 3 * 62 + 2, 3)
    assert (sheet == 10).all(2).sum() == 2 * 40 * 60
    assert (sheet == 90).all(2).sum() == 2 * 80 * 30
    titled = draw.contact_sheet(images, 4, ["a", "b", "c", "a much too long title" * 9])
    assert titled.shape[0] > 80 + 12
    with pytest.raises(ValueError, match="1 titles for 4 images"):
        draw.contact_sheet(images, 2, ["a"])
    with pytest.raises(ValueError, match="got 0 and 2"):
        draw.contact_sheet([], 2)


def test_saved_images_are_rgb(tmp_path):
    image = np.zeros((8, 9, 3), np.uint8)
    image[..., 0] = 250
    path = draw.save_image(tmp_path / "new" / "a.png", image)
    assert cv2.imread(str(path))[0, 0].tolist() == [0, 0, 250]
    with pytest.raises(ValueError, match=r"a\.pmg.*\.png"):
        draw.save_image(tmp_path / "a.pmg", image)


def test_only_the_part_with_people_is_drawn_and_the_picture_is_the_same():
    body = free_body()
    vertices = body(body.mean_body(2)).vertices.numpy()
    people = list(vertices + np.float32([[[-0.3, 0.1, 5]], [[3.0, 0.2, 6]]]))  # one half outside
    faces = body.faces.numpy()
    camera = np.array([[500, 0, 210.3], [0, 500, 149.2], [0, 0, 1]])
    photo = np.random.default_rng(0).integers(0, 255, (300, 420, 3)).astype(np.uint8)
    whole = render(people, faces, camera, (300, 420), background=photo, supersample=2).rgb
    drawn = draw.overlay(photo, people, faces, camera)
    difference = np.abs(drawn.astype(int) - whole).max(axis=2)
    assert (difference > 2).mean() < 1e-4  # rounding on an edge
    assert np.array_equal(draw.overlay(photo, [], faces, camera), photo)
