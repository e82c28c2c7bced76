"""What the demo is to do, checked before anything heavy is imported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hmrkit.body import joints
from hmrkit.infer import inputs, keypoints, videos
from hmrkit.infer.detectors import Detections
from hmrkit.infer.journal import Journal, file_state

# format -> what it is; each is of pictures, of videos, or of both
FORMATS = {
    "overlay": "everybody over the picture or video",
    "side": "everybody seen from the side",
    "npz": "all numbers: one file per picture, or per person of a video",
    "glb": "meshes of a picture; a skinned animation of a video",
    "obj": "meshes as text; of a video one file per frame",
    "ply": "meshes; of a video one file per frame",
    "bvh": "skeletal motion, one file per person of a video",
    "coco": "keypoints in COCO's format",
    "viewer": "a page to walk round everybody",
    "maps": "what a method shows of its inner view of a picture",
}
# Options that say where and how fast, not what comes out.
_NOT_RESULTS = ("input", "output", "run_dir", "paths", "processes", "batch_size", "batch_frames",
                "device", "hydra", "checkpoint", "allow_urls")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        images: name of the outputs -> picture.
        videos: name of the outputs -> video.
        people: name -> who is in the picture, where files or options say so.
        skipped: name -> why nothing will come of it.
        names: of the pictures and videos that are to be looked at now.
        num_before: how many of them an earlier run has done.
    """

    images: Mapping[str, Path]
    videos: Mapping[str, Path]
    people: Mapping[str, Detections]
    skipped: Mapping[str, str]
    names: list[str] = field(default_factory=list)
    num_before: int = 0


def make_plan(config: DictConfig) -> Plan:
    """Check every option and input that can be checked without torch.

    Raises:
        FileNotFoundError: no such checkpoint, input or boxes file.
        ValueError: an option that cannot work, or not one readable picture.
    """
    _check_options(config)
    if not Path(config.checkpoint).is_file():
        raise FileNotFoundError(
            f"checkpoint={config.checkpoint}: no such file; train one with "
            "python -m hmrkit.train experiment=quickstart, it is in runs/quickstart/checkpoints"
        )
    images, clips = _find(config)
    sizes, skipped = {}, {}
    for name, path in images.items():
        try:
            sizes[name] = inputs.image_size(path)
        except ValueError as error:
            skipped[name] = str(error)
    if not sizes and not clips:
        raise ValueError("no picture can be opened:\n" + "\n".join(skipped.values()))
    people = {}
    boxes = plain(config.boxes)
    if sizes and (boxes is not None or config.keypoints is not None):
        people = keypoints.given_people(config.keypoints, boxes, images, sizes)
        for name, found in people.items():
            if not len(found.boxes_img):
                skipped[name] = f"{images[name]}: no box is given for it"
    for name in clips:  # a wrong file is told now, not after the pictures
        keypoints.given_in_frames(config.keypoints, boxes, name)
    everything = {name: images[name] for name in sizes if name not in skipped} | clips
    done = journal_of(config).done(everything.items())
    names = [name for name in everything if name not in done]
    return Plan(images, clips, people, skipped, names, len(done))


def journal_of(config: DictConfig) -> Journal:
    """Of the run's output folder."""
    options = OmegaConf.to_container(config, resolve=True)
    assert isinstance(options, dict)
    shaping = {str(key): value for key, value in options.items() if key not in _NOT_RESULTS}
    files = [config.checkpoint]
    files += [plain(config.boxes)] if isinstance(config.boxes, str) else []
    shaping["files"] = [[str(file), *file_state(Path(file))] for file in files]
    return Journal(Path(config.run_dir), shaping)


def scores(config: DictConfig) -> list[float]:
    """The scores above which a method that finds people believes in one."""
    given = plain(config.min_score)
    return [float(score) for score in (given if isinstance(given, list) else [given])]


def chosen(node: Any, **arguments: Any) -> Any:
    """What a configuration group says, built; None where it says ``_target_: null``."""
    from hydra.utils import instantiate

    return instantiate(node, **arguments) if node and node.get("_target_") else None


def plain(node: Any) -> Any:
    """Lists and dictionaries instead of OmegaConf's."""
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


def _check_options(config: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        needed = " and ".join(missing)
        raise ValueError(
            f"{needed} missing: give checkpoint=<file.ckpt> and input=<photo, folder or video>"
        )
    joints.names(config.joint_set)
    focal = config.focal_px
    if isinstance(focal, str) and focal != "exif":
        raise ValueError(f"focal_px={focal}: give a number of pixels, exif or null")
    if focal is not None and not isinstance(focal, str) and not focal > 0:
        raise ValueError(f"focal_px={focal}: give a positive number of pixels")
    if not scores(config) or not all(0 <= score < 1 for score in scores(config)):
        raise ValueError(f"min_score={config.min_score}: give numbers from 0 to below 1")
    for option in ("processes", "batch_size", "batch_frames"):
        if config[option] < 1:
            raise ValueError(f"{option}={config[option]}: give 1 or more")
    for option in ("fps", "max_seconds", "webcam_seconds"):
        if config[option] is not None and not config[option] > 0:
            raise ValueError(f"{option}={config[option]}: give more than 0")
    check_formats(config)
    if config.keypoints is None and (config.get("adapt") or {}).get("_target_"):
        raise ValueError(
            "adapt= needs 2D evidence: give keypoints=<folder>, with <picture>_keypoints.json or "
            "<video>_<number>_keypoints.json of OpenPose or another detector"
        )


def check_formats(config: DictConfig) -> None:
    """Raise ``ValueError`` for formats that are not there."""
    if set(config.formats) - set(FORMATS) or not config.formats:
        raise ValueError(f"formats={list(config.formats)}: choose from {', '.join(FORMATS)}")


def _find(config: DictConfig) -> tuple[dict[str, Path], dict[str, Path]]:
    """Pictures and videos by name; a webcam films first."""
    output, source = Path(config.run_dir), plain(config.input)
    if isinstance(source, int):
        film = output / f"webcam_{source}.mp4"
        return {}, {film.stem: videos.record_webcam(source, film, config.webcam_seconds)}
    return inputs.find_inputs(source, output, allow_urls=config.allow_urls)
