"""What the demo does: check everything cheap, load the checkpoint, then picture by picture."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from hmrkit.body import joints
from hmrkit.infer import boxes, exports, inputs

FORMATS = ("overlay", "npz", "glb", "obj")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be done, known before anything heavy is imported.

    Attributes:
        images: name of the outputs -> picture.
        boxes_img: name -> (N, 4) px; pictures that cannot be opened are missing here.
        skipped: name -> why nothing will come of it.
    """

    images: Mapping[str, Path]
    boxes_img: Mapping[str, NDArray[np.float32]]
    skipped: Mapping[str, str]


def demo_pictures(config: DictConfig) -> dict[str, str]:
    """Run the composed ``demo.yaml``.

    Returns:
        Pictures that gave nothing: name -> reason.

    Raises:
        FileNotFoundError: no such checkpoint, input or boxes file.
        ValueError: an option that cannot work, or not one picture that does.
    """
    plan = make_plan(config)
    output = Path(config.run_dir)
    module, cut = _load(Path(config.checkpoint), config.device, config.trusted)
    skipped = dict(plan.skipped)
    for name, boxes_img in plan.boxes_img.items():
        path = plan.images[name]
        try:
            image = inputs.read_image(path)
        except ValueError as error:  # a broken picture must not stop the others
            skipped[name] = str(error)
            continue
        people = _predict(module, cut, image, boxes_img, path, config)
        if not np.isfinite(people["vertices_cam"]).all():
            skipped[name] = f"{path}: the prediction is not finite; is the checkpoint trained?"
            continue
        _write(output / name, image, people, config)
        log.info("%s: %s", path, _describe(people))
    _summarise(plan, skipped, output)
    return skipped


def make_plan(config: DictConfig) -> Plan:
    """Check every option and input that can be checked without torch.

    Raises:
        FileNotFoundError: no such checkpoint, input or boxes file.
        ValueError: an option that cannot work, or not one readable picture.
    """
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        needed = " and ".join(missing)
        raise ValueError(
            f"{needed} missing: give checkpoint=<file.ckpt> and input=<photo or folder>"
        )
    joints.names(config.joint_set)
    if config.focal_px is not None and not config.focal_px > 0:
        raise ValueError(f"focal_px={config.focal_px}: give a positive number of pixels")
    unknown = set(config.formats) - set(FORMATS)
    if unknown or not config.formats:
        raise ValueError(f"formats={list(config.formats)}: choose from {', '.join(FORMATS)}")
    if not Path(config.checkpoint).is_file():
        raise FileNotFoundError(
            f"checkpoint={config.checkpoint}: no such file; train one with "
            "python -m hmrkit.train experiment=quickstart, it is in runs/quickstart/checkpoints"
        )
    images = inputs.find_images(_plain(config.input), Path(config.run_dir))
    sizes, skipped = {}, {}
    for name, path in images.items():
        try:
            sizes[name] = inputs.image_size(path)
        except ValueError as error:
            skipped[name] = str(error)
    if not sizes:
        raise ValueError("no picture can be opened:\n" + "\n".join(skipped.values()))
    found = boxes.read_boxes(_plain(config.boxes), images, sizes)
    skipped |= {n: f"{images[n]}: no box is given for it" for n, b in found.items() if not len(b)}
    return Plan(images, {name: b for name, b in found.items() if len(b)}, skipped)


def _load(checkpoint: Path, device: str, trusted: Sequence[str]) -> tuple[Any, Callable]:
    """The module in eval mode on its device, and the crop it was trained on."""
    import torch
    from hydra.utils import instantiate

    from hmrkit.checkpoints import load_checkpoint

    if device == "auto":
        has_mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        module = load_checkpoint(checkpoint, trusted=trusted).to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device} cannot be used here: {error}") from error
    # Nothing is augmented, and the boxes are given: none is made from labelled joints.
    node = module.config["data"]["cut"]
    cut = instantiate(node | {key: None for key in ("augment", "box_joints") if key in node})
    if cut.unit != "view":
        raise ValueError(
            f"checkpoint={checkpoint} predicts from {type(cut).__name__}, whole scenes or rigs; "
            "the demo runs methods that look at one person in a crop"
        )
    return module, cut


def _predict(
    module: Any,
    cut: Callable,
    image: np.ndarray,
    boxes_img: NDArray[np.float32],
    path: Path,
    config: DictConfig,
) -> dict[str, np.ndarray]:
    """Every key of ``exports.PEOPLE_SCHEMA`` for one picture."""
    from hmrkit.infer.predict import predict_people

    if config.boxes is None:  # the network sees the whole picture and no margin around it
        boxes_img = np.stack([boxes.shrink_box(box, cut.box_scale) for box in boxes_img])
    people = predict_people(
        module,
        cut,
        image,
        boxes_img,
        focal_px=config.focal_px,
        joint_set=config.joint_set,
        batch_size=config.batch_size,
    )
    return people | {
        "image": np.array(path.name),
        "method": np.array(type(module.net).__name__.lower()),
        "checkpoint": np.array(Path(config.checkpoint).name),
    }


def _write(
    stem: Path, image: np.ndarray, people: Mapping[str, np.ndarray], config: DictConfig
) -> None:
    """The files of one picture: ``<stem>_overlay.jpg``, ``<stem>.npz``, ``.glb``, ``.obj``."""
    from hmrkit.render import draw
    from hmrkit.render.render import PALETTE

    stem.parent.mkdir(parents=True, exist_ok=True)
    vertices, faces = people["vertices_cam"], people["faces"]
    colors = PALETTE[np.arange(len(vertices)) % len(PALETTE)]
    if "overlay" in config.formats:
        drawn = draw.overlay(
            image,
            list(vertices),
            faces,
            people["intrinsics_img"],
            colors=colors,
            supersample=config.supersample,
        )
        draw.save_image(_named(stem, "_overlay.jpg"), drawn)
    if "npz" in config.formats:
        exports.write_npz(_named(stem, ".npz"), people)
    bytes_rgb = np.round(255 * colors).astype(np.uint8)
    if "glb" in config.formats:
        exports.write_glb(_named(stem, ".glb"), vertices, faces, bytes_rgb)
    if "obj" in config.formats:
        exports.write_obj(_named(stem, ".obj"), vertices, faces, bytes_rgb)


def _named(stem: Path, ending: str) -> Path:
    """Append to a name that may itself hold dots."""
    return stem.with_name(stem.name + ending)


def _describe(people: Mapping[str, np.ndarray]) -> str:
    num, shift = len(people["pose"]), float(people["camera_shift_px"].max())
    text = f"{num} {'person' if num == 1 else 'people'}"
    return text if shift < 1 else f"{text}; the shared camera moves points by up to {shift:.0f} px"


def _summarise(plan: Plan, skipped: Mapping[str, str], output: Path) -> None:
    num_done = len(plan.images) - len(skipped)
    for reason in skipped.values():
        log.warning("skipped: %s", reason)
    if not num_done:
        raise ValueError(f"nothing came of any of the {len(plan.images)} pictures, see above")
    log.info("%d of %d pictures done: %s", num_done, len(plan.images), output)


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
