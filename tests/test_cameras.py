import cv2
import numpy as np
import pytest
import torch

from hmrkit.geometry import cameras


def points_in_front(num: int = 20) -> torch.Tensor:
    points = torch.randn(2, num, 3, generator=torch.Generator().manual_seed(0))
    return points + torch.tensor([0.0, 0.0, 6.0])


def test_project_equals_opencv():
    intrinsics = torch.tensor([[900.0, 2.0, 320.0], [0.0, 870.0, 250.0], [0.0, 0.0, 1.0]])
    points = points_in_front()
    ours = cameras.project(points, intrinsics.expand(2, 3, 3))
    straight = intrinsics.clone()
    straight[0, 1] = 0  # OpenCV has no skew
    expected, _ = cv2.projectPoints(
        points[0].double().numpy(), np.zeros(3), np.zeros(3), straight.double().numpy(), None
    )
    skew = 2.0 * points[0, :, 1] / points[0, :, 2]
    assert np.abs(ours[0, :, 0] - skew - expected[:, 0, 0]).max() < 1e-3
    assert np.abs(ours[0, :, 1] - expected[:, 0, 1]).max() < 1e-3


def test_project_and_transform_keep_their_precision_under_autocast():
    points, intrinsics = points_in_front(), cameras.crop_intrinsics(5000.0, (256, 192))
    matrix = torch.eye(4).expand(2, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = cameras.project(cameras.transform(points, matrix), intrinsics.expand(2, 3, 3))
    assert torch.equal(under, cameras.project(points, intrinsics.expand(2, 3, 3)))


def test_transform_applies_homogeneous_matrices():
    matrix = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))
    matrix[:, 3] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    points = points_in_front()
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    expected = homogeneous @ matrix.transpose(1, 2)
    assert (cameras.transform(points, matrix) - expected[..., :3]).abs().max() < 1e-5


def test_the_full_camera_sees_what_the_crop_camera_sees():
    points = points_in_front()
    crop_to_img = torch.tensor([[[50.0, 0.0, 310.0], [0.0, 66.0, 200.0]]]).repeat(2, 1, 1)
    crop = cameras.crop_intrinsics(5000.0, (256, 192)).expand(2, 3, 3)
    points_crop = cameras.project(points, crop)
    expected = points_crop @ crop_to_img[:, :, :2].transpose(1, 2) + crop_to_img[:, None, :, 2]
    full = cameras.crop_to_full_intrinsics(crop, crop_to_img)
    assert (cameras.project(points, full) - expected).abs().max() < 1e-2  # of thousands of px


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.3])
def test_a_body_of_two_over_scale_metres_fills_the_crop(scale):
    transl = cameras.weak_perspective_to_transl(torch.tensor([[scale, 0.0, 0.0]]), 5000.0, 256)
    ends = torch.tensor([[[0.0, -1 / scale, 0.0], [0.0, 1 / scale, 0.0]]]) + transl[:, None]
    ends_crop = cameras.project(ends, cameras.crop_intrinsics(5000.0, (256, 192))[None])
    assert ends_crop[0, :, 1].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)


def test_a_scale_of_zero_stays_finite():
    cam = torch.zeros(1, 3, requires_grad=True)
    cameras.weak_perspective_to_transl(cam, 5000.0, 224).sum().backward()
    assert cam.grad.isfinite().all()


def test_cliff_puts_an_unshifted_body_on_the_ray_through_its_box():
    center, full_size = torch.tensor([[400.0, 210.0]]), torch.tensor([[480, 640]])
    focal = torch.tensor([800.0])
    transl = cameras.cliff_transl(
        torch.tensor([[0.9, 0.0, 0.0]]), center, torch.tensor([300.0]), focal, full_size
    )
    intrinsics = torch.tensor([[[800.0, 0.0, 320.0], [0.0, 800.0, 240.0], [0.0, 0.0, 1.0]]])
    seen = cameras.project(transl[:, None], intrinsics)
    assert (seen[:, 0] - center).abs().max() < 1e-3
    assert transl[0, 2].item() == pytest.approx(2 * 800 / (0.9 * 300))
