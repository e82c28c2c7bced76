"""The picture of one test sample: input, prediction, label, and both from the side."""

import cv2
import numpy as np
import torch

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.data.collate import IMAGE_MEAN, IMAGE_STD
from hmrkit.geometry.cameras import transform
from hmrkit.render import draw
from hmrkit.types import Batch, Body, Mesh, Prediction

PANELS = (
    "input, prediction (blue), label (green), both from the side: one person with the pelvis in "
    "one place, the people of a whole image where they are"
)
_PANEL_PX = 288  # height of a panel
_GAP_PX = 4
_BLUE = np.array([0.43, 0.64, 0.95], np.float32)
_IN_FRONT = np.array([0, 0, 4.6], np.float32)  # m, of poses without an image
_GREEN = np.array([0.56, 0.80, 0.55], np.float32)
_DARK = np.array([0.20, 0.55, 0.22], np.float32)  # the labelled person that a picture is about


@torch.no_grad()
def sample_picture(batch: Batch, prediction: Prediction, body_model: SMPL, row: int) -> np.ndarray:
    """Four panels side by side, see ``PANELS``; no label: its keypoints; no finite mesh: no mesh.

    Args:
        batch: crops; ``image`` uint8 or normalised.
        prediction: for that batch, with or without mesh. Of scenes everybody in it is drawn, and
            the last panel shows all people of the image from the side, where they are.
        body_model: poses the labels.
        row: the view, a row of ``prediction.transl_cam``; in scenes a labelled person, who is
            drawn darker than the others.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if "image_of_view" not in batch:
        return _pose_picture(batch, prediction, body_model, row)
    if prediction.image_of_person is not None:
        return _scene_picture(batch, prediction, body_model, row)
    image_row, person = int(batch["image_of_view"][row]), int(batch["person_of_view"][row])
    to_camera = batch["world_to_camera"][image_row]
    crop, units_to_px = _panel(batch, image_row)
    faces = body_model.faces.cpu().numpy()
    mesh = prediction.mesh or body_model(prediction.body)
    predicted, beside = _in_camera(mesh, person, to_camera)
    predicted = predicted + prediction.transl_cam[row].cpu().numpy()
    camera = units_to_px @ prediction.intrinsics_crop[row].double().cpu().numpy()
    over = _over(crop, predicted, faces, camera, _BLUE)
    bodies = [(beside, _BLUE)]
    if bool(batch["has_pose"][person] & batch["has_betas"][person]):
        labelled, label_beside = _in_camera(body_model(batch["body"]), person, to_camera)
        bodies.insert(0, (label_beside, _GREEN))
        camera = units_to_px @ _label_intrinsics_crop(batch, row)
        label = _over(crop, labelled, faces, camera, _GREEN)
    else:
        label = _with_keypoints(crop, batch, row, units_to_px)
    drawn = [(v, color) for v, color in bodies if np.isfinite(v).all()]
    vertices, colors = [v for v, _ in drawn], [color for _, color in drawn]
    size_hw = (crop.shape[0], crop.shape[1])
    side = draw.side_view(vertices, faces, size_hw=size_hw, colors=colors, backend="numpy")
    gap = np.full((size_hw[0], _GAP_PX, 3), 255, np.uint8)
    return np.hstack([crop, gap, over, gap, label, gap, side])


def _scene_picture(batch: Batch, prediction: Prediction, body_model: SMPL, row: int) -> np.ndarray:
    """Everybody in one image: input, found people, labelled people, both from the side."""
    image_row = int(batch["image_of_view"][row])
    image, units_to_px = _panel(batch, image_row)
    faces = body_model.faces.cpu().numpy()
    is_here = (prediction.image_of_person == image_row).nonzero()[:, 0]
    mesh = prediction.mesh or body_model(prediction.body)
    found = (mesh.vertices[is_here] + prediction.transl_cam[is_here, None]).float().cpu().numpy()
    over = image
    if len(found):
        camera = units_to_px @ prediction.intrinsics_crop[is_here[0]].double().cpu().numpy()
        over = _all_over(image, found, faces, camera, [_BLUE] * len(found))
    views = (batch["image_of_view"] == image_row).nonzero()[:, 0]
    person = batch["person_of_view"][views]
    labels = body_model(batch["body"]).vertices[person].float()
    labels = transform(labels, batch["world_to_camera"][image_row].expand(len(person), 4, 4))
    labelled = labels.cpu().numpy()
    colors = [_DARK if int(view) == row else _GREEN for view in views]
    camera = units_to_px @ _label_intrinsics_crop(batch, row)
    label = _all_over(image, labelled, faces, camera, colors)
    size_hw = (image.shape[0], image.shape[1])
    pairs = zip((*labelled, *found), (*colors, *[_BLUE] * len(found)), strict=True)
    drawn = [(v, color) for v, color in pairs if np.isfinite(v).all()]
    everybody, colors = [v for v, _ in drawn], [color for _, color in drawn]
    side = draw.side_view(everybody, faces, size_hw=size_hw, colors=colors, backend="numpy")
    gap = np.full((size_hw[0], _GAP_PX, 3), 255, np.uint8)
    return np.hstack([image, gap, over, gap, label, gap, side])


def _all_over(
    image: np.ndarray,
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    colors: list[np.ndarray],
) -> np.ndarray:
    """People (P, V, 3) over a picture, the near ones before the far ones."""
    if not (np.isfinite(vertices_cam).all() and np.isfinite(intrinsics_img).all()):
        return image
    people = list(vertices_cam)
    return draw.overlay(image, people, faces, intrinsics_img, colors=colors, backend="numpy")


def _pose_picture(batch: Batch, prediction: Prediction, body_model: SMPL, row: int) -> np.ndarray:
    """A pose without an image: prediction, label, both from the side; upright, face to face."""
    upright = torch.diag(torch.tensor([1.0, -1.0, -1.0], device=batch["body"].betas.device))
    size_hw = (_PANEL_PX, round(0.7 * _PANEL_PX))
    blank = np.full((*size_hw, 3), 245, np.uint8)
    faces = body_model.faces.cpu().numpy()
    focal = 2.0 * size_hw[0]
    camera = np.array([[focal, 0, size_hw[1] / 2], [0, focal, size_hw[0] / 2], [0, 0, 1]])
    panels, bodies = [], []
    for body, color in ((prediction.body, _BLUE), (batch["body"], _GREEN)):
        one = slice(row, row + 1)
        root = upright.expand(1, 3, 3)
        still = Body(root, body.body_pose[one], body.betas[one], torch.zeros_like(body.transl[one]))
        vertices = body_model(still).vertices[0].float().cpu().numpy()
        vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        panels.append(_over(blank, vertices + _IN_FRONT, faces, camera, color))
        bodies.append(vertices)
    side = draw.side_view(bodies, faces, size_hw=size_hw, colors=[_BLUE, _GREEN], backend="numpy")
    gap = np.full((size_hw[0], _GAP_PX, 3), 255, np.uint8)
    return np.hstack([panels[0], gap, panels[1], gap, side])


def input_rgb(batch: Batch, image_row: int) -> np.ndarray:
    """The valid part of one image of a batch as (H, W, 3) uint8 RGB, normalised or not."""
    height, width = batch["input_size"][image_row].tolist()
    image = batch["image"][image_row, :, :height, :width].permute(1, 2, 0).cpu()
    if image.dtype != torch.uint8:
        image = image.float() * torch.tensor(IMAGE_STD) + torch.tensor(IMAGE_MEAN)
        image = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return image.numpy()


def _panel(batch: Batch, image_row: int) -> tuple[np.ndarray, np.ndarray]:
    """The input at the size of a panel, and the map (3, 3) from crop units to its pixels."""
    rgb = input_rgb(batch, image_row)
    zoom = _PANEL_PX / rgb.shape[0]
    width, height = round(zoom * rgb.shape[1]), _PANEL_PX
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    # A pixel of the input covers ``zoom`` pixels of the panel; its centre moves to their middle.
    shift = (zoom - 1) / 2
    to_px = [[width / 2, 0, width / 2 + shift], [0, height / 2, height / 2 + shift], [0, 0, 1]]
    return cv2.resize(rgb, (width, height), interpolation=method), np.array(to_px)


def _in_camera(
    mesh: Mesh, person: int, world_to_camera: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) of a person in the camera frame, and the same about the pelvis."""
    vertices = transform(mesh.vertices[person].float(), world_to_camera)
    pelvis = mesh.joints[person, joints.index("pelvis", "smpl24")].float()
    pelvis = transform(pelvis[None], world_to_camera)
    return vertices.cpu().numpy(), (vertices - pelvis).cpu().numpy()


def _label_intrinsics_crop(batch: Batch, row: int) -> np.ndarray:
    """Camera of the labels (3, 3), metres to crop units; NaN where the image's is unknown."""
    crop_to_img = np.eye(3)
    crop_to_img[:2] = batch["crop_to_img"][row].cpu().numpy()
    intrinsics_img = batch["intrinsics"][int(batch["image_of_view"][row])].double().cpu().numpy()
    return np.linalg.inv(crop_to_img) @ intrinsics_img


def _over(
    image: np.ndarray,
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    color: np.ndarray,
) -> np.ndarray:
    """One person (V, 3) over a picture; the picture alone where person or camera is not finite."""
    if not (np.isfinite(vertices_cam).all() and np.isfinite(intrinsics_img).all()):
        return image
    return draw.overlay(
        image, [vertices_cam], faces, intrinsics_img, colors=[color], backend="numpy"
    )


def _with_keypoints(
    image: np.ndarray, batch: Batch, row: int, units_to_px: np.ndarray
) -> np.ndarray:
    keypoints = batch["keypoints_crop"][row].cpu().numpy().copy()  # (K, 3)
    keypoints[:, :2] = keypoints[:, :2] @ units_to_px[:2, :2].T + units_to_px[:2, 2]
    return draw.draw_skeleton(image, keypoints, joints.skeleton("all"))
