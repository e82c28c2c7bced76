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
    whole = whole_image_box(image.shape[:2])[None]
    cut_sample = cut(make_sample(image, whole, None), None, None)
    batch = module.transfer_batch_to_device(collate([cut_sample]), module.device, 0)
    shown = cut_sample["input_image"][0]
    batch = {**batch, "image": normalize_image(batch["image"])}
    prediction = module.predict(batch)
    if prediction.image_of_person is None:
        raise ValueError(f"{type(module.net).__name__} does not find people in whole images")
    pictures = {}
    if with_maps:
        if not hasattr(module.net, "pictures"):
            raise ValueError(f"formats: maps: {type(module.net).__name__} has none to show")
        pictures = module.net.pictures(shown, prediction)
    everybody = [
        _arrays(module, detected(prediction, score), prediction, batch, image, focal_px, joint_set)
        for score in min_scores
    ]
    return everybody, pictures


def _arrays(
    module: Any,
    found: Prediction,
    prediction: Prediction,
    batch: Batch,
    image: np.ndarray,
    focal_px: float | None,
    joint_set: str,
) -> dict[str, np.ndarray]:
    """The arrays of the people who were found, the most certain first."""
    order = found.score.argsort(descending=True)
    mesh = module.body(found.body)
    to_img = batch["crop_to_img"][:1]
    own: dict[str, Tensor] = {
        "global_orient": found.body.global_orient,
        "body_pose": found.body.body_pose,
        "betas": found.body.betas,
        "transl": found.body.transl,
        "vertices": mesh.vertices,
        "pelvis": mesh.joints[:, joints.index("pelvis", "smpl24")],
        "joints": module.body.joints_from_mesh(mesh, joint_set),
        "transl_cam": found.transl_cam,
        "intrinsics_img": crop_to_full_intrinsics(
            found.intrinsics_crop, to_img.expand(len(order), 2, 3)
        ),
    }
    own = {name: value[order].detach().float().cpu() for name, value in own.items()}
    camera = crop_to_full_intrinsics(prediction.intrinsics_crop[:1], to_img)[0].float().cpu()
    people = people_arrays(own, image.shape[:2], focal_px, camera)
    return people | {
        "box_img": _boxes(people),
        "faces": module.body.faces.cpu().numpy().astype(np.int32),
        "joint_names": np.array(joints.names(joint_set)),
        "body": np.array(module.body.name),
    }


def _boxes(people: dict[str, np.ndarray]) -> np.ndarray:
    """Boxes (N, 4) px around the people as the shared camera sees them."""
    rays = people["vertices_cam"] @ people["intrinsics_img"].T
    points = rays[..., :2] / rays[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=-1).astype(np.float32)
