"""Samples -> Batch: concatenation with offsets, one joint set, torch."""

from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hmrkit.body import joints
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Batch, Body, Sample

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
IMAGE_STD = (0.229, 0.224, 0.225)


def normalize_image(image: Tensor) -> Tensor:
    """Images (I, 3, H, W) uint8 as float32 with ImageNet's mean and deviation, on their device.

    The memory layout is kept: ``collate`` makes channels-last images, which convolutions like best.
    """
    mean = torch.tensor(IMAGE_MEAN, device=image.device).view(3, 1, 1) * 255
    std = torch.tensor(IMAGE_STD, device=image.device).view(3, 1, 1) * 255
    return image.to(torch.float32).sub_(mean).div_(std)


def collate(samples: Sequence[Sample], exact_sources: Collection[str] = ()) -> Batch:
    """Concatenate cut samples into one batch.

    Images of different sizes are padded with zeros, right and below, to the largest; crop units
    always refer to the valid part, ``input_size``, so that they do not depend on the batch.

    Args:
        samples: of one cut.
        exact_sources: names of sources whose bodies are measured, not fitted to keypoints.

    Raises:
        ValueError: naming record and field, where a label claims to be valid and is not finite.
    """
    with_images = ["input_image" in sample for sample in samples]
    if any(with_images) != all(with_images):
        raise ValueError(
            "a batch holds samples with and without images: motion cannot be mixed with images in "
            "one source map; give it a mix of its own"
        )
    num_persons = [len(sample["has_pose"]) for sample in samples]
    batch = _persons(samples, num_persons)
    is_exact = [sample["source"] in exact_sources for sample in samples]
    batch["has_exact_labels"] = torch.from_numpy(np.repeat(np.array(is_exact, bool), num_persons))
    if with_images[0]:
        num_images = [len(sample["input_image"]) for sample in samples]
        batch.update(_views(samples, num_images, num_persons))
    num_entries = num_images if with_images[0] else num_persons
    for name in ("key", "source"):
        batch[name] = [s[name] for s, n in zip(samples, num_entries, strict=True) for _ in range(n)]
    return batch


def _persons(samples: Sequence[Sample], num_persons: Sequence[int]) -> Batch:
    """What belongs to people."""
    fields = ("pose", "betas", "transl", "has_pose", "has_betas", "gender")
    joined = {name: np.concatenate([sample[name] for sample in samples]) for name in fields}
    owners = np.repeat([sample["key"] for sample in samples], num_persons)
    for name, flag in (("pose", "has_pose"), ("betas", "has_betas")):
        _check_finite(name, joined[name], joined[flag], owners)
    rotmats = axis_angle_to_rotmat(torch.from_numpy(_filled(joined["pose"])))  # (P, 24, 3, 3)
    return {
        "body": Body(
            global_orient=rotmats[:, 0].contiguous(),
            body_pose=rotmats[:, 1:].contiguous(),
            betas=torch.from_numpy(_filled(joined["betas"])),
            transl=torch.from_numpy(_filled(joined["transl"])),
        ),
        "keypoints_world": _keypoints(samples, "keypoints_world", num_persons, owners),
        "has_transl": torch.from_numpy(np.isfinite(joined["transl"]).all(axis=1)),
        **{name: torch.from_numpy(joined[name]) for name in ("has_pose", "has_betas", "gender")},
        **_if_known(samples, "person_id"),
    }


def _views(
    samples: Sequence[Sample], num_images: Sequence[int], num_persons: Sequence[int]
) -> Batch:
    """What belongs to images and to the views of people in them."""
    num_views = [len(sample["image_of_view"]) for sample in samples]
    owners = np.repeat([sample["key"] for sample in samples], num_views)
    fields = ("input_size", "full_size", "intrinsics", "world_to_camera", "box_img", "crop_to_img")
    joined = {name: np.concatenate([sample[name] for sample in samples]) for name in fields}
    own = np.concatenate([sample["intrinsics_of_view"] for sample in samples])
    image_of_view = _offset(samples, "image_of_view", num_images)
    for name in ("box_img", "crop_to_img"):
        _check_finite(name, joined[name], np.ones(len(owners), bool), owners)
    second: Batch = {}
    if "keypoint_image" in samples[0]:
        maps = np.concatenate([sample["keypoint_crop_to_img"] for sample in samples])
        second["keypoint_image"] = _images(samples, "keypoint_image")
        second["keypoint_crop_to_img"] = torch.from_numpy(maps)
    return {
        **second,
        **_if_known(samples, "visible_fraction"),
        "image": _images(samples, "input_image"),
        "image_of_view": image_of_view,
        "intrinsics_of_view": torch.from_numpy(
            np.where(np.isfinite(own), own, joined["intrinsics"][image_of_view.numpy()])
        ),
        "person_of_view": _offset(samples, "person_of_view", num_persons),
        "keypoints_crop": _keypoints(samples, "keypoints_crop", num_views, owners),
        **{name: torch.from_numpy(array) for name, array in joined.items()},
    }


def _if_known(samples: Sequence[Sample], name: str) -> Batch:
    """A field that no network needs; made-up samples may lack it."""
    if not all(name in sample for sample in samples):
        return {}
    return {name: torch.from_numpy(np.concatenate([sample[name] for sample in samples]))}  # type: ignore[misc]


def _offset(samples: Sequence[Sample], name: str, counts: Sequence[int]) -> Tensor:
    """Index vectors of the samples, moved to count through the batch."""
    starts = np.cumsum([0, *counts[:-1]])
    moved = [sample[name] + start for sample, start in zip(samples, starts, strict=True)]
    return torch.from_numpy(np.concatenate(moved))


def _images(samples: Sequence[Sample], name: str) -> Tensor:
    """(I, 3, H, W) uint8; a view of channels-last memory, which spares a pass over the pixels."""
    images = [image for sample in samples for image in sample[name]]
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    if all(image.shape[:2] == (height, width) for image in images):
        stacked = np.stack(images)
    else:
        stacked = np.zeros((len(images), height, width, 3), np.uint8)
        for place, image in zip(stacked, images, strict=True):
            place[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def _keypoints(
    samples: Sequence[Sample], name: str, counts: Sequence[int], owners: np.ndarray
) -> Tensor:
    """Keypoints of every sample in the joint set "all"; absent ones are 0 with confidence 0."""
    size = samples[0][name].shape[-1]
    joined = np.zeros((sum(counts), len(joints.names("all")), size), np.float32)
    end = 0
    for sample, count in zip(samples, counts, strict=True):
        start, end = end, end + count
        source, target = _shared_joints(sample["joint_set"])
        joined[start:end, target] = sample[name][:, source]
    is_present = joined[..., -1] != 0  # NaN too: a confidence is a number
    _check_finite(name, joined, is_present, owners)
    joined[~is_present] = 0
    return torch.from_numpy(joined)


@lru_cache
def _shared_joints(joint_set: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the joints of a set in it and in "all"; joints unknown to "all" are dropped."""
    source = joints.mapping(joint_set, "all")
    target = np.flatnonzero(source >= 0)
    return source[target], target


def _filled(array: np.ndarray) -> np.ndarray:
    """Zero where not finite."""
    return np.where(np.isfinite(array), array, np.float32(0))


def _check_finite(name: str, array: np.ndarray, is_claimed: np.ndarray, owners: np.ndarray) -> None:
    """Raise where an array, claimed row by row (or joint by joint), is not finite."""
    is_finite = np.isfinite(array).all(axis=tuple(range(is_claimed.ndim, array.ndim)))
    is_bad = is_claimed & ~is_finite
    if is_bad.any():
        row = int(np.argwhere(is_bad)[0, 0])
        raise ValueError(
            f"record {str(owners[row])!r}: {name} is not finite but claims to be a label; "
            "correct it or mark it absent (flag or confidence 0)"
        )
