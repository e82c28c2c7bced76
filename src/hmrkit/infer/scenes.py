"""From a picture to everybody in it, by methods that look at whole images and need no boxes.

All people stand before the one camera that the method assumes, so that depths compare. With a known
``focal_px`` everybody keeps pixel and size: depths are scaled by the ratio of the focal lengths.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.data.collate import collate, normalize_image
from hmrkit.geometry.cameras import crop_to_full_intrinsics
from hmrkit.infer.boxes import whole_image_box
from hmrkit.infer.predict import make_sample, people_arrays
from hmrkit.scene_evaluation import detected
from hmrkit.types import Batch, Prediction, Sample


@torch.no_grad()
def predict_scene(
    module: Any,
    cut: Callable[..., Sample],
    image: np.ndarray,
    min_scores: Sequence[float],
    *,
    focal_px: float | None = None,
    joint_set: str = "smpl24",
    with_maps: bool = False,
) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Everybody in one picture.

    Args:
        module: an ``HMRModule`` in eval mode.
        cut: how its network was shown images, ``hmrkit.data.scenes.Scenes``.
        image: (H, W, 3) uint8 RGB, upright.
        min_scores: who scores above one is somebody; a result for each.
        focal_px: focal length of the picture if it is known.
        joint_set: of the exported joints.
        with_maps: also what the network shows of its inner view (``net.pictures``).

    Returns:
        For each of ``min_scores`` the keys of ``exports.PEOPLE_SCHEMA`` that do not name files,
        of N >= 0 people, the most certain first; and pictures (h, w, 3) uint8 by name.

    Raises:
        ValueError: if the method does not find people itself, or has no such pictures.
    """
    prediction, batch, shown = predict_scenes(module, cut, [image])
    pictures = {}
    if with_maps:
        if not hasattr(module.net, "pictures"):
            raise ValueError(f"formats: maps: {type(module.net).__name__} has none to show")
        pictures = module.net.pictures(shown[0], prediction)
    to_img = batch["crop_to_img"][:1]
    camera = crop_to_full_intrinsics(prediction.intrinsics_crop[:1], to_img)[0].float().cpu()
    everybody = []
    for min_score in min_scores:
        own = scene_rows(module, prediction, batch, min_score, joint_set)
        people = people_arrays(own, image.shape[:2], focal_px, camera)
        everybody.append(
            people
            | {
                "box_img": boxes_around(people["vertices_cam"], people["intrinsics_img"]),
                "score": own["score"].numpy(),
                "faces": module.body.faces.cpu().numpy().astype(np.int32),
                "joint_names": np.array(joints.names(joint_set)),
                "body": np.array(module.body.name),
            }
        )
    return everybody, pictures


@torch.no_grad()
def predict_scenes(
    module: Any, cut: Callable[..., Sample], images: Sequence[np.ndarray]
) -> tuple[Prediction, Batch, list[np.ndarray]]:
    """Everybody in some pictures, in one forward pass.

    Args:
        module: an ``HMRModule`` in eval mode.
        cut: how its network was shown images.
        images: (H, W, 3) uint8 RGB.

    Returns:
        The prediction with all candidates, the batch, and the images as the network saw them.

    Raises:
        ValueError: if the method does not find people itself.
    """
    samples = [
        cut(make_sample(image, whole_image_box(image.shape[:2])[None], None), None, None)
        for image in images
    ]
    batch = module.transfer_batch_to_device(collate(samples), module.device, 0)
    batch = {**batch, "image": normalize_image(batch["image"])}
    prediction = module.predict(batch)
    if prediction.image_of_person is None:
        raise ValueError(f"{type(module.net).__name__} does not find people in whole images")
    return prediction, batch, [sample["input_image"][0] for sample in samples]


def scene_rows(
    module: Any, prediction: Prediction, batch: Batch, min_score: float, joint_set: str = "smpl24"
) -> dict[str, Tensor]:
    """The people above a score in their images' cameras, the most certain first.

    Args:
        module: an ``HMRModule``.
        prediction: of ``predict_scenes``, as is ``batch``.
        batch: see there.
        min_score: who scores above it is somebody.
        joint_set: of the joints.

    Returns:
        The rows of ``predict.predict_crops``, and ``score`` and ``image`` (N,).
    """
    found = detected(prediction, min_score)
    order = found.score.argsort(descending=True)
    mesh = module.body(found.body)
    to_img = batch["crop_to_img"][found.image_of_person]
    own: dict[str, Tensor] = {
        "global_orient": found.body.global_orient,
        "body_pose": found.body.body_pose,
        "betas": found.body.betas,
        "transl": found.body.transl,
        "vertices": mesh.vertices,
        "pelvis": mesh.joints[:, joints.index("pelvis", "smpl24")],
        "joints": module.body.joints_from_mesh(mesh, joint_set),
        "coco17": module.body.joints_from_mesh(mesh, "coco17"),
        "transl_cam": found.transl_cam,
        "intrinsics_img": crop_to_full_intrinsics(found.intrinsics_crop, to_img),
        "score": found.score,
    }
    rows = {name: value[order].detach().float().cpu() for name, value in own.items()}
    return rows | {"image": found.image_of_person[order].cpu()}


def boxes_around(vertices_cam: np.ndarray, intrinsics_img: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) px around people (N, V, 3) m as a camera (3, 3) px or one each sees them."""
    rays = vertices_cam @ np.swapaxes(intrinsics_img, -1, -2)
    points = rays[..., :2] / rays[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=-1).astype(np.float32)
