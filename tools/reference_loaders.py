"""What other methods' loaders do to one sample, written down simply, for ``bench.py data=...``.

None of this is anybody's code: each function repeats, with the same libraries and in the same
order, the work on pixels that its method's loader is described to do, from the bytes of a JPEG to
normalised float tensors. Work on labels is left out where it is small, which favours the others;
where it is not (a body model per person), hmrkit's own body stands in. Checked against nothing but
the clock.
"""

import io
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image

from hmrkit.body.free import free_body
from hmrkit.body.smpl import SMPL
from hmrkit.data.augment import Augment, AugmentParams
from hmrkit.types import Body

MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])
Loader = Callable[[list[bytes], np.ndarray, np.random.Generator], object]


class Reference(NamedTuple):
    """One method's loader, and what hmrkit does instead."""

    load: Loader  # JPEGs of a record, boxes (O, 4) of its views, a generator -> one unit
    unit: str  # what one call makes: "person": the first; "image": everybody; "rig": all views
    target: float  # hmrkit is to be so many times as fast
    options: dict[str, Any]  # of hmrkit's cut, for the same sample


def center_side(box: np.ndarray, params: AugmentParams) -> tuple[np.ndarray, float]:
    """Centre (2,) and side, px, of the crop around a box."""
    return (box[:2] + box[2:]) / 2, 1.2 * float((box[2:] - box[:2]).max()) * params.scale


def affine_of(box: np.ndarray, params: AugmentParams, size: int) -> np.ndarray:
    """(2, 3) from image px to px of a crop."""
    center, side = center_side(box, params)
    affine = cv2.getRotationMatrix2D(center.tolist(), params.rotation_deg, size / side)
    affine[:, 2] += size / 2 - center
    return affine


def normalized(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of 0..255 as float32 (3, H, W)."""
    scaled = np.transpose(image.astype(np.float32), (2, 0, 1)) / 255.0
    return ((scaled - MEAN[:, None, None]) / STD[:, None, None]).astype(np.float32)


def mirrored(box: np.ndarray, width: int) -> np.ndarray:
    """A box in the mirrored image."""
    return np.array([width - 1 - box[2], box[1], width - 1 - box[0], box[3]])


def decode(jpeg: bytes) -> np.ndarray:
    """What ``cv2.imread`` and a change to RGB do."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), 4)


# PyMAF (and SPIN): crop at whole pixels, turn, resize, all on floats

SPIN_AUGMENT = Augment()


def pymaf(jpegs: list[bytes], boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The whole image as float, an integer crop, a rotation of doubles, Pillow's resize."""
    params = SPIN_AUGMENT.draw(rng)
    image = decode(jpegs[0]).astype(np.float32)
    center, side = center_side(boxes[0], params)
    corner = (center - side / 2).astype(int)
    side_px = int(side)
    margin = int((np.sqrt(2) - 1) * side_px / 2) + 1 if params.rotation_deg else 0
    crop = padded_crop(image, corner - margin, side_px + 2 * margin)
    if params.rotation_deg:
        crop = turn_doubles(crop, params.rotation_deg)[margin:-margin, margin:-margin]
    resized = Image.fromarray(crop.astype(np.uint8)).resize((224, 224))
    pixels = np.asarray(resized).astype(np.float64)
    if params.is_flipped:
        pixels = np.fliplr(pixels)
    pixels = np.clip(pixels * params.color_gain, 0, 255).astype(np.uint8)
    return normalized(pixels)


def padded_crop(image: np.ndarray, corner: np.ndarray, side_px: int) -> np.ndarray:
    """A square of the image as doubles, zero outside."""
    crop = np.zeros((side_px, side_px, 3))
    limit = np.array(image.shape[1::-1])
    low, high = np.clip(corner, 0, limit), np.clip(corner + side_px, 0, limit)
    (x1, y1), (x2, y2) = low - corner, high - corner
    crop[y1:y2, x1:x2] = image[low[1] : high[1], low[0] : high[0]]
    return crop


def turn_doubles(crop: np.ndarray, angle_deg: float) -> np.ndarray:
    """scikit-image's rotation if it is installed; else Pillow's by channel, which is faster."""
    if has_skimage():
        from skimage.transform import rotate

        return rotate(crop, angle_deg, preserve_range=True)
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in np.moveaxis(crop, 2, 0)]
    turned = [channel.rotate(angle_deg, Image.Resampling.BILINEAR) for channel in channels]
    return np.stack([np.asarray(channel) for channel in turned], axis=2)


@cache
def has_skimage() -> bool:
    """Whether scikit-image is there."""
    import importlib.util

    return importlib.util.find_spec("skimage") is not None


# TokenHMR (and 4D-Humans): a mask as fourth channel of the whole image, float warp

TOKENHMR_AUGMENT = Augment(
    rotation_probability=0.6,
    scale_std=0.3,
    scale_max=0.3,
    shift_std=0.02,
    shift_max=0.02,
    color_gain=(0.8, 1.2),
    extreme_crop_probability=0.1,
)


def tokenhmr(jpegs: list[bytes], boxes: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Decoded once; for every person the masks are unpacked, and theirs is a fourth channel."""
    image = decode(jpegs[0])
    masks = packed_masks(len(boxes), *image.shape[:2])
    crops = []
    for i, box in enumerate(boxes):
        params = TOKENHMR_AUGMENT.draw(rng)
        mask = np.load(io.BytesIO(masks))["masks"][i, ..., None].astype(np.uint8) * np.uint8(255)
        source = np.concatenate([image, mask], axis=2)
        if params.is_flipped:
            source = np.ascontiguousarray(source[:, ::-1])
            box = mirrored(box, image.shape[1])
        crop = cv2.warpAffine(source, affine_of(box, params, 256), (256, 256)).astype(np.float32)
        channels = [np.clip(crop[..., c] * params.color_gain[c], 0, 255) for c in range(3)]
        crops.append(normalized(np.stack(channels, axis=2)))
    return crops


@cache
def packed_masks(num: int, height: int, width: int) -> bytes:
    """The file of masks that comes with an image: npz, (num, H, W) bool, an ellipse for each."""
    y, x = np.mgrid[:height, :width]
    y, x = y / height - 0.5, x / width - np.linspace(0.3, 0.7, num)[:, None, None]
    file = io.BytesIO()
    np.savez_compressed(file, masks=(x / 0.15) ** 2 + (y / 0.4) ** 2 < 1)
    return file.getvalue()


# Meta-HMR: one warp, then uint8

METAHMR_AUGMENT = Augment()


def metahmr(jpegs: list[bytes], boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Decode, mirror the image, warp once, scale the channels."""
    params = METAHMR_AUGMENT.draw(rng)
    image, box = decode(jpegs[0]), boxes[0]
    if params.is_flipped:
        image = np.ascontiguousarray(image[:, ::-1])
        box = mirrored(box, image.shape[1])
    crop = cv2.warpAffine(image, affine_of(box, params, 224), (224, 224))
    crop = np.clip(crop * np.array(params.color_gain), 0, 255).astype(np.uint8)
    return normalized(crop)


# SAT-HMR: the whole image twice, Pillow's colours, a body and a map per person


def sathmr_pixels(
    jpegs: list[bytes], boxes: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, np.ndarray]:
    """Resize, warp the image and a mask of it, pad, jitter, normalise."""
    image = decode(jpegs[0])
    factor = 1288 / max(image.shape[:2])
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    image = cv2.resize(image, size)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
    angle, zoom = rng.uniform(-15, 15), rng.uniform(0.8, 1.8)
    affine = cv2.getRotationMatrix2D((size[0] // 2, size[1] // 2), angle, zoom)
    image = cv2.warpAffine(image, affine, size)
    mask = cv2.warpAffine(np.full(size[::-1], 255, np.uint8), affine, size)
    missing = [-side % 56 for side in image.shape[:2]]
    image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)))
    tensor = jitter_and_normalise()(Image.fromarray(image))
    return tensor, mask


@cache
def jitter_and_normalise() -> torchvision.transforms.Compose:
    """Torchvision on a Pillow image."""
    from torchvision import transforms

    steps = [transforms.ColorJitter(0.2, 0.2, 0.2), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(MEAN.tolist(), STD.tolist())])


def sathmr(
    jpegs: list[bytes], boxes: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, np.ndarray]:
    """The same with labels: every person posed, and their subdivided mesh painted on a grid."""
    import trimesh

    tensor, _ = sathmr_pixels(jpegs, boxes, rng)
    cells = np.zeros((46, 46, 2), np.float32)
    for box in boxes:
        vertices = posed(1)[0]
        fine, _ = trimesh.remesh.subdivide(vertices, body().faces.numpy())
        px = (fine[:, :2] + 1) / 2 * (box[2:] - box[:2]) + box[:2]
        row, column = np.clip(px // 28, 0, 45).astype(int).T
        cells[row, column] = [1, 0.5]
    return tensor, cells


# HeatFormer: two crops and a body per view


def heatformer(
    jpegs: list[bytes], boxes: np.ndarray, rng: np.random.Generator
) -> list[tuple[np.ndarray, ...]]:
    """For every view: decode, one warp to 384 and one to 256, normalise both, pose a body."""
    views = []
    for i in rng.permutation(len(jpegs)):
        image = decode(jpegs[i])
        crops = []
        for size in (384, 256):
            affine = affine_of(boxes[i], AugmentParams(), size)
            crops.append(normalized(cv2.warpAffine(image, affine, (size, size))))
        views.append((*crops, posed(1)))
    return views


@cache
def body() -> SMPL:
    """A body of SMPL's size."""
    return free_body()


def posed(num: int) -> np.ndarray:
    """Vertices (num, V, 3) of resting people."""
    rest = torch.eye(3).expand(num, 24, 3, 3)
    with torch.no_grad():
        mesh = body()(Body(rest[:, 0], rest[:, 1:], torch.zeros(num, 10), torch.zeros(num, 3)))
    return mesh.vertices.numpy()


CROPS = {
    "pymaf": Reference(pymaf, "person", 3, {"input_size": (224, 224), "augment": SPIN_AUGMENT}),
    "tokenhmr": Reference(
        tokenhmr, "image", 2, {"input_size": (256, 256), "augment": TOKENHMR_AUGMENT}
    ),
    "metahmr": Reference(
        metahmr, "person", 1, {"input_size": (224, 224), "augment": METAHMR_AUGMENT}
    ),
}
SATHMR_AUGMENT = Augment(
    rotation_probability=1.0,
    rotation_std_deg=None,
    rotation_max_deg=15.0,
    zoom=(0.8, 1.8),
    color_gain=(1.0, 1.0),
    color_jitter=0.2,
)
SCENES = {
    "sathmr, pixels alone": Reference(sathmr_pixels, "image", 1, {"augment": SATHMR_AUGMENT}),
    "sathmr": Reference(sathmr, "image", 3, {"augment": SATHMR_AUGMENT}),
}
VIEWS = {"heatformer": Reference(heatformer, "rig", 2, {})}
