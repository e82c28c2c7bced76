"""From a picture and boxes to people in one camera; the same cut as in training and evaluation.

A crop method predicts each person in a camera of its own that looks at the middle of the box.
``shared_camera`` puts all people of a picture into one camera: a person is turned by the angle
between the two lines of sight and moved so that the pelvis keeps its pixel and its size. What is
exact: with one person, or where the method predicts in the picture's camera, everything, because
the shared camera *is* the person's. With several people, the pelvis; other points move by the
difference in perspective, well below a pixel with HMR's long focal lengths, more with a short
``focal_px``. The largest move is reported as ``camera_shift_px``. Depth between people follows from
their sizes in the picture and is as good as the predicted scale and shape.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.record import complete_sample
from hmrkit.geometry.cameras import crop_to_full_intrinsics, project
from hmrkit.geometry.rotations import rotmat_to_axis_angle
from hmrkit.infer import exports
from hmrkit.types import Batch, Prediction, Sample

_SAME_CAMERA_PX = 1e-2  # intrinsics closer than this are one camera


def predict_people(
    module: Any,
    cut: Callable[..., Sample],
    image: np.ndarray,
    boxes_img: np.ndarray,
    *,
    focal_px: float | None = None,
    joint_set: str = "smpl24",
    batch_size: int = 32,
    keypoints: tuple[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Everything about the people in the boxes of one picture.

    Args:
        module: an ``HMRModule`` in eval mode.
        cut: the crop its network was trained on, for example ``hmrkit.data.crops.Crops``.
        image: (H, W, 3) uint8 RGB, upright.
        boxes_img: (N, 4) x1 y1 x2 y2 px, N >= 1.
        focal_px: focal length of the picture if it is known; the shared camera then has it.
        joint_set: of the exported joints, a name of ``hmrkit.body.joints``.
        batch_size: people per forward pass.
        keypoints: 2D evidence for a module with ``adapt``: joint set and (N, K, 3) px + confidence.

    Returns:
        The keys of ``exports.PEOPLE_SCHEMA`` that do not name files; after test-time optimisation
        also ``adapt_keypoints2d`` (N, S), its loss before every step and at the end, and
        ``keypoint_error_px`` (N, 2), the mean distance of the projected joints to the evidence
        before and after.
    """
    sample = make_sample(image, boxes_img, focal_px, keypoints)
    crops = [cut(sample, view, None) for view in range(len(boxes_img))]
    own = predict_crops(module, crops, joint_set=joint_set, batch_size=batch_size)
    adapted = {k: own[k].numpy() for k in ("adapt_keypoints2d", "keypoint_error_px") if k in own}
    return (
        adapted
        | people_arrays(own, image.shape[:2], focal_px)
        | {
            "box_img": np.asarray(boxes_img, dtype=np.float32),
            "score": np.full(len(boxes_img), np.nan, dtype=np.float32),
            "faces": module.body.faces.cpu().numpy().astype(np.int32),
            "joint_names": np.array(joints.names(joint_set)),
            "body": np.array(module.body.name),
        }
    )


def predict_crops(
    module: Any, crops: Sequence[Sample], *, joint_set: str = "smpl24", batch_size: int = 32
) -> dict[str, Tensor]:
    """People in cameras of their own, from crops of any number of pictures.

    Args:
        module: an ``HMRModule`` in eval mode.
        crops: N samples of one view each, as its cut makes them of ``make_sample``.
        joint_set: of the joints.
        batch_size: people per forward pass.

    Returns:
        Rows (N, ...) on the CPU: ``global_orient``, ``body_pose``, ``betas``, ``transl``,
        ``vertices``, ``pelvis``, ``joints``, ``coco17``, ``transl_cam``, ``intrinsics_img``
        (3, 3) px of the picture, and what test-time optimisation measured.
    """
    chunks = [list(crops[i : i + batch_size]) for i in range(0, len(crops), batch_size)]
    parts = [_predict_batch(module, chunk, joint_set) for chunk in chunks]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def make_sample(
    image: np.ndarray,
    boxes_img: np.ndarray,
    focal_px: float | None,
    keypoints: tuple[str, np.ndarray] | None = None,
) -> Sample:
    """A record without labels: one image, one person and one view per box.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes_img: (N, 4) px.
        focal_px: focal length if known; the principal point is then the middle of the image.
        keypoints: joint set and (N, K, 3) px + confidence, what a detector found.
    """
    num = len(boxes_img)
    partial: Sample = {
        "key": "picture",
        "source": "demo",
        "images": [image],
        "image_of_view": np.zeros(num, dtype=np.int64),
        "person_of_view": np.arange(num, dtype=np.int64),
        "box_img": np.asarray(boxes_img, dtype=np.float32),
    }
    if focal_px is not None:
        partial["intrinsics"] = _central_camera(focal_px, image.shape[:2]).numpy()[None]
    if keypoints is None:
        return complete_sample(partial, "smpl24")
    joint_set, found = keypoints
    is_found = found[..., 2:] > 0
    partial["keypoints_img"] = np.where(is_found, found, [np.nan, np.nan, 0.0]).astype(np.float32)
    return complete_sample(partial, joint_set)


def shared_camera(
    intrinsics_img: Tensor, size_hw: tuple[int, int], focal_px: float | None = None
) -> Tensor:
    """One camera (3, 3) px for people that were predicted in cameras of their own.

    It is theirs if they agree and ``focal_px`` does not say otherwise. Else it has ``focal_px``, or
    their median focal length, and looks at the middle of the picture.

    Args:
        intrinsics_img: (N, 3, 3) px, own cameras.
        size_hw: height and width of the picture.
        focal_px: known focal length.
    """
    own = intrinsics_img[0]
    is_same = bool(((intrinsics_img - own).abs() < _SAME_CAMERA_PX).all())
    if is_same and (focal_px is None or abs(own[1, 1] - focal_px) < _SAME_CAMERA_PX):
        return own
    focal = float(intrinsics_img[:, 1, 1].median()) if focal_px is None else focal_px
    return _central_camera(focal, size_hw).to(own)


def move_to_camera(
    pelvis_cam: Tensor, intrinsics_img: Tensor, camera: Tensor
) -> tuple[Tensor, Tensor]:
    """How people predicted in their own cameras stand in another one; see the module.

    Args:
        pelvis_cam: (N, 3) m in the own cameras.
        intrinsics_img: (N, 3, 3) px, those.
        camera: (3, 3) px, the other.

    Returns:
        Turns about the pelvis (N, 3, 3) and the new places of the pelvis (N, 3) m.
    """
    pixels = torch.cat(
        [project(pelvis_cam[:, None], intrinsics_img)[:, 0], intrinsics_img[:, :2, 2]]
    )
    rays = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=-1) @ camera.inverse().T
    to_pelvis, axis = rays.chunk(2)
    depth = pelvis_cam[:, 2] * camera[1, 1] / intrinsics_img[:, 1, 1]
    return _turn_from_z(axis), to_pelvis * depth[:, None]


def _turn_from_z(direction: Tensor) -> Tensor:
    """The smallest rotations (N, 3, 3) that take the z axis to directions (N, 3) with z > 0."""
    x, y, z = torch.nn.functional.normalize(direction, dim=-1).unbind(-1)
    k = 1 / (1 + z)
    rows = [1 - k * x * x, -k * x * y, x, -k * x * y, 1 - k * y * y, y, -x, -y, z]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _predict_batch(module: Any, crops: list[Sample], joint_set: str) -> dict[str, Tensor]:
    """Predictions for some crops as flat tensors on the CPU, one row per person."""
    batch = module.transfer_batch_to_device(collate(crops), module.device, 0)
    batch = {**batch, "image": normalize_image(batch["image"])}
    prediction = module.predict(batch)
    own = {
        "global_orient": prediction.body.global_orient,
        "body_pose": prediction.body.body_pose,
        "betas": prediction.body.betas,
        "transl": prediction.body.transl,
        "vertices": prediction.mesh.vertices,
        "pelvis": prediction.mesh.joints[:, joints.index("pelvis", "smpl24")],
        "joints": module.body.joints_from_mesh(prediction.mesh, joint_set),
        "coco17": module.body.joints_from_mesh(prediction.mesh, "coco17"),
        "transl_cam": prediction.transl_cam,
        "intrinsics_img": crop_to_full_intrinsics(prediction.intrinsics_crop, batch["crop_to_img"]),
    }
    if "adapt_keypoints2d" in prediction.extra:
        own["adapt_keypoints2d"] = prediction.extra["adapt_keypoints2d"]
        errors = [
            _keypoint_error_px(p, batch, module.body) for p in (*prediction.stages, prediction)
        ]
        own["keypoint_error_px"] = torch.stack(errors, dim=1)
    return {key: value.detach().float().cpu() for key, value in own.items()}


def _keypoint_error_px(prediction: Prediction, batch: Batch, body_model: Any) -> Tensor:
    """Mean distance (N,) of the projected joints to the keypoints, px; NaN where there are none."""
    points = body_model.joints(prediction.body, "all") + prediction.transl_cam[:, None]
    to_img = batch["crop_to_img"][:, :, :2]
    shift = project(points, prediction.intrinsics_crop) - batch["keypoints_crop"][..., :2]
    distance = (shift @ to_img.transpose(1, 2)).norm(dim=-1)  # (N, K)
    is_given = batch["keypoints_crop"][..., 2] > 0
    return (distance * is_given).sum(dim=1) / is_given.sum(dim=1)


def people_arrays(
    own: dict[str, Tensor],
    size_hw: tuple[int, int],
    focal_px: float | None,
    intrinsics_img: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """Predictions in own cameras to the arrays of ``exports.PEOPLE_SCHEMA``.

    Args:
        own: rows (N, ...) of people in their own cameras.
        size_hw: height and width of the picture.
        focal_px: of the picture, if it is known.
        intrinsics_img: (3, 3) px, their one camera, for methods that may find nobody.
    """
    own = {key: value.double() for key, value in own.items()}  # 1 px is 1e-5 of a long focal length
    intrinsics = own["intrinsics_img"]
    known = intrinsics if intrinsics_img is None else intrinsics_img[None].double()
    camera = shared_camera(known, size_hw, focal_px)
    pelvis = own["pelvis"]
    turn, pelvis_cam = move_to_camera(pelvis + own["transl_cam"], intrinsics, camera)

    def place(points: Tensor) -> Tensor:
        return (points - pelvis[:, None]) @ turn.transpose(1, 2) + pelvis_cam[:, None]

    vertices_cam = place(own["vertices"])
    joints_cam = place(own["joints"])
    seen_own = project(own["vertices"] + own["transl_cam"][:, None], intrinsics)
    shift = (project(vertices_cam, camera) - seen_own).norm(dim=-1).amax(dim=-1)  # (N,)
    rotations = torch.cat([(turn @ own["global_orient"])[:, None], own["body_pose"]], dim=1)
    tensors = {
        "pose": rotmat_to_axis_angle(rotations),
        "betas": own["betas"],
        "transl_cam": own["transl"] + pelvis_cam - pelvis,
        "vertices_cam": vertices_cam,
        "joints_cam": joints_cam,
        "keypoints_img": project(joints_cam, camera),
        "coco17_img": project(place(own["coco17"]), camera),
        "intrinsics_img": camera,
        "transl_own_cam": own["transl"] + own["transl_cam"],
        "intrinsics_own_img": intrinsics,
        "camera_shift_px": shift,
    }
    return {key: value.numpy().astype(np.float32) for key, value in tensors.items()} | {
        "schema_version": np.array(exports.SCHEMA_VERSION),
        "image_size": np.array(size_hw, dtype=np.int64),
    }


def _central_camera(focal_px: float, size_hw: tuple[int, int]) -> Tensor:
    """Camera (3, 3) px whose principal point is the middle of the image."""
    height, width = size_hw
    return torch.tensor(
        [[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1.0]]
    )
