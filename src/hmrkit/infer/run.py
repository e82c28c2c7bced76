"""What the demo does: check everything cheap, load the checkpoint, then picture by picture."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from hmrkit.body import joints
from hmrkit.infer import boxes, exports, inputs, keypoints, videos
from hmrkit.infer.processes import in_processes

FORMATS = ("overlay", "npz", "glb", "obj", "maps")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be done, known before anything heavy is imported.

    Attributes:
        images: name of the outputs -> picture.
        boxes_img: name -> (N, 4) px; pictures that cannot be opened are missing here.
        skipped: name -> why nothing will come of it.
        keypoints: name -> joint set and (N, K, 3) px + confidence; empty without a detector.
        videos: name -> video; its frames are among the pictures, named ``<name>/<number>``.
    """

    images: Mapping[str, Path]
    boxes_img: Mapping[str, NDArray[np.float32]]
    skipped: Mapping[str, str]
    keypoints: Mapping[str, tuple[str, NDArray[np.float32]]] = field(default_factory=dict)
    videos: Mapping[str, Path] = field(default_factory=dict)


def demo_pictures(config: DictConfig) -> dict[str, str]:
    """Run the composed ``demo.yaml``.

    Returns:
        Pictures that gave nothing: name -> reason.

    Raises:
        FileNotFoundError: no such checkpoint, input or boxes file.
        ValueError: an option that cannot work, or not one picture that does.
    """
    plan = make_plan(config)
    skipped = {**plan.skipped, **in_processes(_do_share, config, plan)}
    if plan.videos and "overlay" in config.formats:
        videos.join_overlays(plan.videos, Path(config.run_dir))
    _summarise(plan, skipped, Path(config.run_dir))
    return skipped


def _do_share(config: DictConfig, plan: Plan, names: Sequence[str]) -> dict[str, str]:
    """Some of the pictures, one after the other; what gave nothing: name -> reason."""
    from hmrkit.infer.loading import load_for_pictures

    module, cut = load_for_pictures(Path(config.checkpoint), config.device, config.trusted)
    _set_adapt(module, config)
    if cut.unit == "record" and config.boxes is not None:
        raise ValueError("this method looks at whole pictures and finds people itself: no boxes=")
    skipped = {}
    for name in names:
        path = plan.images[name]
        try:
            image = inputs.read_image(path)
        except ValueError as error:  # a broken picture must not stop the others
            skipped[name] = str(error)
            continue
        results = _results(module, cut, image, name, plan, config)
        for stem, people in results.items():
            if np.isfinite(people["vertices_cam"]).all():
                _write(Path(config.run_dir) / stem, image, people, config)
                log.info("%s: %s", path, _describe(people))
            else:
                skipped[name] = f"{path}: the prediction is not finite; is the checkpoint trained?"
    return skipped


def _results(
    module: Any, cut: Callable, image: np.ndarray, name: str, plan: Plan, config: DictConfig
) -> dict[str, dict[str, np.ndarray]]:
    """Every key of ``exports.PEOPLE_SCHEMA`` for one picture, by the name of the files to be."""
    path = plan.images[name]
    about = {
        "image": np.array(path.name),
        "method": np.array(type(module.net).__name__.lower()),
        "checkpoint": np.array(Path(config.checkpoint).name),
    }
    if cut.unit == "view":
        evidence = plan.keypoints.get(name)
        people = _predict(module, cut, image, plan.boxes_img[name], config, evidence)
        return {name: people | about}
    return {stem: people | about for stem, people in _scene(module, cut, image, name, config)}


def _scene(
    module: Any, cut: Callable, image: np.ndarray, name: str, config: DictConfig
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Everybody whom a method finds in a picture, for each score that is asked for."""
    from hmrkit.infer.scenes import predict_scene
    from hmrkit.render import draw

    scores = _scores(config)
    everybody, maps = predict_scene(
        module,
        cut,
        image,
        scores,
        focal_px=config.focal_px,
        joint_set=config.joint_set,
        with_maps="maps" in config.formats,
    )
    for kind, picture in maps.items():
        draw.save_image(_named(Path(config.run_dir) / name, f"_{kind}.jpg"), picture)
    for score, people in zip(scores, everybody, strict=True):
        yield (name if len(scores) == 1 else f"score_{score:g}/{name}"), people


def _scores(config: DictConfig) -> list[float]:
    given = _plain(config.min_score)
    return [float(score) for score in (given if isinstance(given, list) else [given])]


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
    if not _scores(config) or not all(0 <= score < 1 for score in _scores(config)):
        raise ValueError(f"min_score={config.min_score}: give numbers from 0 to below 1")
    if config.processes < 1:
        raise ValueError(f"processes={config.processes}: give 1 or more")
    unknown = set(config.formats) - set(FORMATS)
    if unknown or not config.formats:
        raise ValueError(f"formats={list(config.formats)}: choose from {', '.join(FORMATS)}")
    if not Path(config.checkpoint).is_file():
        raise FileNotFoundError(
            f"checkpoint={config.checkpoint}: no such file; train one with "
            "python -m hmrkit.train experiment=quickstart, it is in runs/quickstart/checkpoints"
        )
    images, clips = _find_pictures(_plain(config.input), Path(config.run_dir))
    sizes, skipped = {}, {}
    for name, path in images.items():
        try:
            sizes[name] = inputs.image_size(path)
        except ValueError as error:
            skipped[name] = str(error)
    if not sizes:
        raise ValueError("no picture can be opened:\n" + "\n".join(skipped.values()))
    if config.keypoints is None and (config.get("adapt") or {}).get("_target_"):
        raise ValueError(
            "adapt= needs 2D evidence: give keypoints=<folder>, with <picture>_keypoints.json of "
            "OpenPose or another detector for each picture"
        )
    found, evidence = keypoints.boxes_and_keypoints(
        config.keypoints, _plain(config.boxes), images, sizes
    )
    skipped |= {n: f"{images[n]}: no box is given for it" for n, b in found.items() if not len(b)}
    return Plan(images, {name: b for name, b in found.items() if len(b)}, skipped, evidence, clips)


def _find_pictures(source: Any, output: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Pictures and frames of videos by name, and the videos; frames go below ``output``."""
    sources = source if isinstance(source, list) else [source]
    clips = videos.find_videos(sources)
    pictures = [one for one in sources if Path(one).expanduser() not in clips.values()]
    images = inputs.find_images(pictures, output) if pictures or not clips else {}
    for name, path in clips.items():
        folder = output / "frames" / name
        for number in range(1, videos.write_frames(path, folder) + 1):
            images[f"{name}/{number:06d}"] = folder / f"{number:06d}.jpg"
    return images, clips


def _set_adapt(module: Any, config: DictConfig) -> None:
    """Test-time optimisation as the options say, or the checkpoint, if there is evidence."""
    from hmrkit.checkpoints import set_adapt

    set_adapt(module, config.get("adapt"))
    if module.adapt is None:
        return
    if config.keypoints is None:
        log.info("no test-time optimisation, which the checkpoint brings: it needs keypoints=")
        module.adapt = None
    else:
        module.adapt.take_as_given()
        module.adapt.to(module.device)


def _predict(
    module: Any,
    cut: Callable,
    image: np.ndarray,
    boxes_img: NDArray[np.float32],
    config: DictConfig,
    evidence: tuple[str, NDArray[np.float32]] | None,
) -> dict[str, np.ndarray]:
    """Everybody in the boxes of a picture, by methods that look at crops."""
    from hmrkit.infer.predict import predict_people

    if (
        config.boxes is None and evidence is None
    ):  # the network sees the whole picture and no margin around it
        boxes_img = np.stack([boxes.shrink_box(box, cut.box_scale) for box in boxes_img])
    return predict_people(
        module,
        cut,
        image,
        boxes_img,
        focal_px=config.focal_px,
        joint_set=config.joint_set,
        batch_size=config.batch_size,
        keypoints=evidence,
    )


def _write(
    stem: Path, image: np.ndarray, people: Mapping[str, np.ndarray], config: DictConfig
) -> None:
    """The files of one picture: ``<stem>_overlay.jpg``, ``.npz``, ``.glb``, ``.obj``, and more."""
    from hmrkit.render import draw
    from hmrkit.render.render import PALETTE

    stem.parent.mkdir(parents=True, exist_ok=True)
    people = dict(people)
    curve, error_px = (people.pop(k, None) for k in ("adapt_keypoints2d", "keypoint_error_px"))
    if curve is not None:
        exports.write_adaptation(_named(stem, "_adapt.json"), curve, error_px)
        before, after = np.nanmean(error_px, axis=0)
        log.info("%s: distance to the keypoints %.1f -> %.1f px", stem.name, before, after)
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
    if not len(vertices):
        return  # nobody: there is nothing to put into a file of meshes
    if "glb" in config.formats:
        exports.write_glb(_named(stem, ".glb"), vertices, faces, bytes_rgb)
    if "obj" in config.formats:
        exports.write_obj(_named(stem, ".obj"), vertices, faces, bytes_rgb)


def _named(stem: Path, ending: str) -> Path:
    """Append to a name that may itself hold dots."""
    return stem.with_name(stem.name + ending)


def _describe(people: Mapping[str, np.ndarray]) -> str:
    num, shift = len(people["pose"]), float(people["camera_shift_px"].max(initial=0))
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
