"""The demo of a calibrated rig: pictures of several cameras in, one body per person in the world.

Every instant is looked at twice where no boxes are given: first the whole pictures, then what the
first body covers in each of them. Pictures of cameras with a lens distortion are undistorted first,
and drawn over undistorted. A camera without a picture of an instant is left out of it.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hmrkit import configs
from hmrkit.body import joints
from hmrkit.infer import boxes, exports
from hmrkit.infer.calibration import RigCamera, read_calibration
from hmrkit.infer.picture_files import write_page
from hmrkit.infer.plan import check_formats
from hmrkit.infer.rig_inputs import RigPictures, check_boxes, find_pictures

SCHEMA_VERSION = 1
# key -> (dimensions, meaning); C cameras, P people, K joints of joint_names, V vertices.
RIG_SCHEMA: dict[str, tuple[str, str]] = {
    "schema_version": ("()", "version of this table"),
    "instant": ("()", "name of the moment"),
    "cameras": ("(C,)", "names of the cameras that have a picture of it"),
    "image_size": ("(C, 2)", "height, width of the pictures, px"),
    "intrinsics_img": ("(C, 3, 3)", "px, of the undistorted pictures"),
    "world_to_camera": ("(C, 4, 4)", "m"),
    "method": ("()", "network that made the prediction"),
    "checkpoint": ("()", "its file"),
    "body": ("()", "body model; faces, vertices and pose belong to it"),
    "box_img": ("(C, P, 4)", "x1 y1 x2 y2 px of the undistorted pictures; NaN for who is not seen"),
    "pose": ("(P, J, 3)", "SMPL axis-angle, radians; row 0 takes the body to the world"),
    "betas": ("(P, 10)", "SMPL shape"),
    "transl_world": ("(P, 3)", "m, SMPL's translation in the world"),
    "vertices_world": ("(P, V, 3)", "m, SMPL(pose, betas) + transl_world"),
    "faces": ("(F, 3)", "triangles, rows of vertices_world[i]"),
    "joint_names": ("(K,)", "names of the joints below"),
    "joints_world": ("(P, K, 3)", "m"),
    "keypoints_img": ("(C, P, K, 2)", "px, joints_world seen by the cameras"),
}
_MARGIN = 1.2  # of whole pictures, that the cut adds again
_MIN_VISIBLE = 0.2  # of a second box inside its picture; else the first box is kept

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instant:
    """What the cameras saw at one moment."""

    cameras: list[str]
    images: list[np.ndarray]  # (H, W, 3) uint8 RGB, undistorted
    boxes_img: np.ndarray  # (C, P, 4) px; NaN for who is not seen


def demo_rig(config: DictConfig) -> dict[str, str]:
    """Run the composed ``demo.yaml`` with a calibration.

    Writes ``<instant>/<camera>_overlay.jpg`` for every view, ``<instant>_viewer.html`` over that of
    the first camera, ``<instant>.npz`` (``RIG_SCHEMA``) and ``<instant>.glb`` or ``.obj`` in the
    coordinates of the calibration's world, in metres.

    Returns:
        Instants that gave nothing: name -> reason.

    Raises:
        FileNotFoundError: no such checkpoint, input, calibration or boxes file.
        ValueError: an option that cannot work, or not one instant that does.
    """
    output = Path(config.run_dir)
    cameras, pictures, given = _plan(config, output)
    module, cut = _load(config)
    skipped: dict[str, str] = {}
    for name in pictures.instants:
        try:
            instant = _read(pictures, name, cameras, given)
        except ValueError as error:  # a broken picture must not stop the other instants
            skipped[name] = str(error)
            continue
        result = _predict(module, cut, instant, cameras, given is None, config)
        if not np.isfinite(result["vertices_world"]).all():
            skipped[name] = f"{name}: the prediction is not finite; is the checkpoint trained?"
            continue
        _write(output, name, instant, cameras, result, config)
        log.info("%s: %d people in %d views", name, len(result["pose"]), len(instant.cameras))
    for reason in skipped.values():
        log.warning("skipped: %s", reason)
    if len(skipped) == len(pictures.instants):
        raise ValueError(f"nothing came of any of the {len(skipped)} instants, see above")
    log.info("%d of %d instants done: %s", *_counts(pictures, skipped), output)
    return skipped


def _counts(pictures: RigPictures, skipped: Mapping[str, str]) -> tuple[int, int]:
    return len(pictures.instants) - len(skipped), len(pictures.instants)


def _plan(
    config: DictConfig, output: Path
) -> tuple[dict[str, RigCamera], RigPictures, dict[str, dict[str, np.ndarray]] | None]:
    """Cameras, pictures and boxes, all checked before anything heavy is loaded."""
    joints.names(config.joint_set)
    check_formats(config)
    for unused in sorted({"side", "ply", "bvh", "coco", "maps"} & set(config.formats)):
        log.warning("formats: %s is not of rigs", unused)
    for option in ("checkpoint", "input"):
        if OmegaConf.is_missing(config, option):
            raise ValueError(f"{option} missing: give checkpoint=<file.ckpt> and input=<folder>")
    if not Path(config.checkpoint).is_file():
        raise FileNotFoundError(f"checkpoint={config.checkpoint}: no such file")
    if config.focal_px is not None:
        raise ValueError("focal_px is for pictures without a calibration: leave it out")
    cameras = read_calibration(Path(config.calibration).expanduser(), config.calibration_unit)
    if not isinstance(config.input, str):
        raise ValueError("input of a rig is one folder, with a folder or video per camera")
    pictures = find_pictures(Path(config.input).expanduser(), cameras, output, config.frame_step)
    return cameras, pictures, _boxes(config, list(cameras), pictures.instants)


def _boxes(
    config: DictConfig, cameras: Sequence[str], instants: Sequence[str]
) -> dict[str, dict[str, np.ndarray]] | None:
    if config.boxes is None:
        return None
    if not isinstance(config.boxes, str):
        given = OmegaConf.to_container(config.boxes)
    else:
        path = Path(config.boxes).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"boxes={path}: no such file")
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"boxes={path} is not valid JSON: {error}") from error
    return check_boxes(given, cameras, instants)


def _load(config: DictConfig) -> tuple[Any, Any]:
    """The module in eval mode on its device, and the cut of its evaluation."""
    import torch
    from hydra.utils import instantiate

    from hmrkit.checkpoints import load_checkpoint

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    module = load_checkpoint(Path(config.checkpoint), trusted=config.trusted).to(device).eval()
    node = configs.cut_node(module.config["data"], "eval", "demo")
    cut = instantiate(node, num_views=None)
    if not hasattr(cut, "num_views"):
        raise ValueError(
            f"checkpoint={config.checkpoint} predicts from {type(cut).__name__}, not from rigs: "
            "leave calibration= out"
        )
    return module, cut


def _read(
    pictures: RigPictures,
    name: str,
    cameras: Mapping[str, RigCamera],
    given: Mapping[str, Mapping[str, np.ndarray]] | None,
) -> Instant:
    """What the cameras saw, and where to look for people.

    Raises:
        ValueError: if nobody is seen by any camera, or a picture cannot be decoded.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for camera in pictures.shots:
        image = pictures.read(camera, name)
        people = None if given is None else given.get(camera, {}).get(name)
        if image is None or (given is not None and people is None):
            continue
        if people is None:
            whole = boxes.whole_image_box(image.shape[:2])
            people = boxes.shrink_box(whole, _MARGIN)[None]
        found[camera] = cameras[camera].undistort(image), people
    if not found:
        raise ValueError(f"{name}: no camera has a picture and a box")
    num_people = {len(people) for _, people in found.values()}
    if len(num_people) > 1:
        raise ValueError(f"{name}: {sorted(num_people)} boxes in the cameras; null for the unseen")
    images = [image for image, _ in found.values()]
    return Instant(list(found), images, np.stack([people for _, people in found.values()]))


def _predict(
    module: Any,
    cut: Any,
    instant: Instant,
    cameras: Mapping[str, RigCamera],
    is_first_look: bool,
    config: DictConfig,
) -> dict[str, np.ndarray]:
    """Every key of ``RIG_SCHEMA`` for one instant."""
    matrices = np.stack([cameras[name].world_to_camera for name in instant.cameras])
    intrinsics = np.stack([cameras[name].intrinsics for name in instant.cameras])
    result = predict_rig(
        module, cut, instant.images, intrinsics, matrices, instant.boxes_img, config.joint_set
    )
    if is_first_look and np.isfinite(result["vertices_world"]).all():
        seen = _project(result["vertices_world"], intrinsics, matrices)  # (C, P, V, 2)
        second = np.concatenate([seen.min(axis=2), seen.max(axis=2)], axis=-1)
        sizes = [image.shape[:2] for image in instant.images]
        closer = _where_visible(second, instant.boxes_img, sizes)
        result = predict_rig(
            module, cut, instant.images, intrinsics, matrices, closer, config.joint_set
        )
    return result | {
        "schema_version": np.array(SCHEMA_VERSION),
        "cameras": np.array(instant.cameras),
        "image_size": np.array([image.shape[:2] for image in instant.images]),
        "intrinsics_img": intrinsics,
        "world_to_camera": matrices,
        "keypoints_img": _project(result["joints_world"], intrinsics, matrices),
        "method": np.array(type(module.net).__name__.lower()),
        "checkpoint": np.array(Path(config.checkpoint).name),
    }


def predict_rig(
    module: Any,
    cut: Any,
    images: Sequence[np.ndarray],
    intrinsics: np.ndarray,
    world_to_camera: np.ndarray,
    boxes_img: np.ndarray,
    joint_set: str = "smpl24",
) -> dict[str, np.ndarray]:
    """The people of one instant in the world.

    Args:
        module: an ``HMRModule`` in eval mode whose network takes rigs.
        cut: ``hmrkit.data.multiview.MultiView`` as its network was trained with.
        images: C x (H, W, 3) uint8 RGB, without distortion.
        intrinsics: (C, 3, 3) px.
        world_to_camera: (C, 4, 4) m.
        boxes_img: (C, P, 4) px; NaN for who is not seen.
        joint_set: of the joints, a name of ``hmrkit.body.joints``.

    Returns:
        ``pose``, ``betas``, ``transl_world``, ``vertices_world``, ``joints_world``, ``faces``,
        ``joint_names``, ``body`` and ``box_img`` of ``RIG_SCHEMA``.

    Raises:
        ValueError: if a person is seen by no camera.
    """
    import torch

    from hmrkit.data.collate import collate
    from hmrkit.data.record import complete_sample
    from hmrkit.geometry.rotations import rotmat_to_axis_angle

    is_seen = ~np.isnan(boxes_img).any(axis=-1)  # (C, P)
    if not is_seen.any(axis=0).all():
        raise ValueError(f"person {int((~is_seen.any(axis=0)).argmax())} is seen by no camera")
    person, image = np.nonzero(is_seen.T)
    sample = {
        "key": "rig",
        "source": "demo",
        "images": list(images),
        "intrinsics": np.float32(intrinsics),
        "world_to_camera": np.float32(world_to_camera),
        "image_of_view": image,
        "person_of_view": person,
        "box_img": np.float32(
            [_fit_box(cut, boxes_img[c, p]) for c, p in zip(image, person, strict=True)]
        ),
    }
    batch = collate([cut(complete_sample(sample, "smpl24"))])  # type: ignore[arg-type]
    batch = module.transfer_batch_to_device(batch, module.device, 0)
    with torch.no_grad():
        prediction = module.predict(_normalized(batch))
    body = prediction.body
    rotations = torch.cat([body.global_orient[:, None], body.body_pose], dim=1)
    found = {
        "pose": rotmat_to_axis_angle(rotations),
        "betas": body.betas,
        "transl_world": body.transl,
        "vertices_world": prediction.mesh.vertices,
        "joints_world": module.body.joints_from_mesh(prediction.mesh, joint_set),
    }
    return {name: value.float().cpu().numpy() for name, value in found.items()} | {
        "faces": module.body.faces.cpu().numpy().astype(np.int32),
        "joint_names": np.array(joints.names(joint_set)),
        "body": np.array(module.body.name),
        "box_img": boxes_img,
    }


def _normalized(batch: Mapping[str, Any]) -> Any:
    from hmrkit.data.collate import normalize_image

    raw = [name for name in ("image", "keypoint_image") if name in batch]
    return {**batch, **{name: normalize_image(batch[name]) for name in raw}}


def _fit_box(cut: Any, box: np.ndarray) -> np.ndarray:
    """A box, made square for a cut that looks at its width alone."""
    from hmrkit.data.width_crops import WidthCrops

    if not isinstance(getattr(cut, "keypoint_crops", None), WidthCrops):
        return box
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max() / 2
    return np.concatenate([middle - half, middle + half])


def _project(
    points_world: np.ndarray, intrinsics: np.ndarray, world_to_camera: np.ndarray
) -> np.ndarray:
    """Points (P, N, 3) m in px (C, P, N, 2) of every camera."""
    rays = _in_cameras(points_world, world_to_camera) @ intrinsics[:, None].swapaxes(-1, -2)
    return rays[..., :2] / rays[..., 2:]


def _in_cameras(points_world: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    """Points (P, N, 3) m in the axes of every camera, (C, P, N, 3)."""
    turn, shift = world_to_camera[:, None, :3, :3], world_to_camera[:, None, None, :3, 3]
    return points_world[None] @ turn.swapaxes(-1, -2) + shift


def _where_visible(
    second: np.ndarray, first: np.ndarray, sizes_hw: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Boxes (C, P, 4) of ``second`` that lie in their pictures, ``first`` for the others."""
    limit = np.array([[width, height] for height, width in sizes_hw])[:, None]  # (C, 1, 2)
    low, high = second[..., :2], second[..., 2:]
    inside = (np.minimum(high, limit) - np.maximum(low, 0)).clip(min=0).prod(axis=-1)
    is_good = inside > _MIN_VISIBLE * (high - low).prod(axis=-1)
    return np.where(is_good[..., None], second, first)


def _write(
    output: Path,
    name: str,
    instant: Instant,
    cameras: Mapping[str, RigCamera],
    result: Mapping[str, np.ndarray],
    config: DictConfig,
) -> None:
    """The files of one instant."""
    from hmrkit.render import draw
    from hmrkit.render.render import PALETTE

    output.mkdir(parents=True, exist_ok=True)
    vertices, faces = result["vertices_world"], result["faces"]
    colors = PALETTE[np.arange(len(vertices)) % len(PALETTE)]
    shown = _in_cameras(vertices, result["world_to_camera"])
    if "viewer" in config.formats:
        first = cameras[instant.cameras[0]].intrinsics
        write_page(output / f"{name}_viewer.html", instant.images[0], shown[0], faces, first)
    if "overlay" in config.formats:
        (output / name).mkdir(exist_ok=True)
        for i, camera in enumerate(instant.cameras):
            intrinsics, samples = cameras[camera].intrinsics, config.supersample
            picture = draw.overlay(
                instant.images[i],
                list(shown[i]),
                faces,
                intrinsics,
                colors=colors,
                supersample=samples,
            )
            draw.save_image(output / name / f"{camera}_overlay.jpg", picture)
    if "npz" in config.formats:
        content = {"instant": np.array(name), **result}
        assert content.keys() == RIG_SCHEMA.keys(), content.keys() ^ RIG_SCHEMA.keys()
        np.savez_compressed(output / f"{name}.npz", **content)
    bytes_rgb = np.round(255 * colors).astype(np.uint8)
    as_they_are = vertices @ exports.CAM_TO_GLTF  # undone by the writers: the world's own axes
    if "glb" in config.formats:
        exports.write_glb(output / f"{name}.glb", as_they_are, faces, bytes_rgb)
    if "obj" in config.formats:
        exports.write_obj(output / f"{name}.obj", as_they_are, faces, bytes_rgb)
