"""The files of one picture, all named after it."""

import logging
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from omegaconf import DictConfig

from hmrkit.infer import exports
from hmrkit.infer.coco import Shown, write_coco
from hmrkit.render import draw, viewer
from hmrkit.render.render import PALETTE

_VIEWER_PX = 1600  # long side of the photo in the page

log = logging.getLogger(__name__)


def write(
    stem: Path, image: np.ndarray, people: Mapping[str, np.ndarray], config: DictConfig
) -> None:
    """Write ``<stem>_overlay.jpg``, ``.npz``, ``.glb`` and whatever else is asked for.

    Args:
        stem: path of the files without their endings.
        image: (H, W, 3) uint8 RGB.
        people: the keys of ``exports.PEOPLE_SCHEMA``, and what test-time optimisation measured.
        config: ``formats``, ``supersample``.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    people = dict(people)
    curve, error_px = (people.pop(k, None) for k in ("adapt_keypoints2d", "keypoint_error_px"))
    if curve is not None:
        exports.write_adaptation(exports.named(stem, "_adapt.json"), curve, error_px)
        before, after = np.nanmean(error_px, axis=0)
        log.info("%s: distance to the keypoints %.1f -> %.1f px", stem.name, before, after)
    colors = PALETTE[np.arange(len(people["pose"])) % len(PALETTE)]
    _write_pictures(stem, image, people, colors, config)
    if "npz" in config.formats:
        exports.write_npz(exports.named(stem, ".npz"), people)
    if "coco" in config.formats:
        _write_coco(stem, people)
    _write_meshes(stem, people, colors, config)


def _write_pictures(
    stem: Path,
    image: np.ndarray,
    people: Mapping[str, np.ndarray],
    colors: np.ndarray,
    config: DictConfig,
) -> None:
    vertices, faces = people["vertices_cam"], people["faces"]
    if "overlay" in config.formats:
        drawn = draw.overlay(
            image,
            list(vertices),
            faces,
            people["intrinsics_img"],
            colors=colors,
            supersample=config.supersample,
        )
        draw.save_image(exports.named(stem, "_overlay.jpg"), drawn)
    if "side" in config.formats:
        drawn = draw.side_view(list(vertices), faces, colors=colors, supersample=config.supersample)
        draw.save_image(exports.named(stem, "_side.jpg"), drawn)
    if "viewer" in config.formats:
        page = exports.named(stem, "_viewer.html")
        write_page(page, image, vertices, faces, people["intrinsics_img"])


def write_page(
    path: Path,
    image: np.ndarray,
    vertices_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
) -> None:
    """Write a page to walk round people (N, V, 3) m, over the picture that their camera took."""
    figure = viewer.figure(
        list(vertices_cam),
        faces,
        intrinsics_img=intrinsics_img,
        size_hw=image.shape[:2],
        picture=jpeg(image, _VIEWER_PX),
    )
    title = path.name.removesuffix("_viewer.html")
    path.write_text(viewer.page(title, figure), encoding="utf-8")


def _write_meshes(
    stem: Path, people: Mapping[str, np.ndarray], colors: np.ndarray, config: DictConfig
) -> None:
    vertices, faces = people["vertices_cam"], people["faces"]
    if not len(vertices):
        return  # nobody: there is nothing to put into a file of meshes
    bytes_rgb = np.round(255 * colors).astype(np.uint8)
    writers = {
        "glb": exports.write_glb,
        "obj": exports.write_obj,
        "ply": exports.write_ply,
    }
    for kind, write_meshes in writers.items():
        if kind in config.formats:
            write_meshes(exports.named(stem, f".{kind}"), vertices, faces, bytes_rgb)


def _write_coco(stem: Path, people: Mapping[str, np.ndarray]) -> None:
    shown = Shown(
        file_name=str(people["image"]),
        size_hw=(int(people["image_size"][0]), int(people["image_size"][1])),
        keypoints_img=people["coco17_img"],
        ids=range(1, 1 + len(people["pose"])),
        score=people["score"],
    )
    write_coco(exports.named(stem, "_coco.json"), [shown])


def jpeg(image: np.ndarray, long_side_px: int, quality: int = 85) -> bytes:
    """A picture (H, W, 3) uint8 RGB as JPEG, not larger than ``long_side_px``."""
    factor = min(1.0, long_side_px / max(image.shape[:2]))
    if factor < 1:
        size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), options)[1].tobytes()
