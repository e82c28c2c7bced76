"""Videos: people found, followed and predicted frame by frame, then drawn and exported as one.

A video is read twice: once to predict, with crops of several frames and people in one batch, and
once to draw. In between only parameters are kept, so that length costs little memory.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from hmrkit.infer import boxes, keypoints, videos
from hmrkit.infer.clip_files import Clip, write_clip
from hmrkit.infer.detectors import Detections
from hmrkit.infer.plan import chosen, plain, scores
from hmrkit.infer.predict import make_sample, predict_crops
from hmrkit.infer.scenes import boxes_around, predict_scenes, scene_rows
from hmrkit.infer.tracks import Track, camera_of_clip, jitter, make_tracks, smooth_track

Rows = dict[str, Tensor]

log = logging.getLogger(__name__)


def demo_clip(
    module: Any,
    cut: Any,
    detector: Any,
    name: str,
    path: Path,
    config: DictConfig,
    about: dict[str, str],
) -> str | None:
    """All files of one video.

    Args:
        module: an ``HMRModule`` in eval mode.
        cut: how its network was shown pictures.
        detector: see ``detectors``, or None.
        name: of the files.
        path: the video.
        config: the composed ``demo.yaml``.
        about: names of the method and the checkpoint, for the files.

    Returns:
        Why there are none, or None.

    Raises:
        ValueError: if the video cannot be decoded, or a box is wrong.
    """
    info = videos.probe(path, config.fps)
    if config.focal_px == "exif":
        log.info("%s: videos have no EXIF, the method's own focal length is taken", path)
    focal_px = None if config.focal_px == "exif" else config.focal_px
    observed = _Observer(module, cut, detector, name, config, info.fps)
    rows, num_frames, size_hw = observed.run(path, info)
    if not len(rows):
        return f"{path}: nobody is found in any of its {num_frames} frames"
    wanted = scores(config) if cut.unit != "view" else [0.0]
    is_written = False
    for score in wanted:
        chosen = _follow(rows, score, config, info.fps) if cut.unit != "view" else rows
        if not torch.isfinite(chosen["pelvis"]).all():
            return f"{path}: the prediction is not finite; is the checkpoint trained?"
        stem = Path(config.run_dir) / (name if len(wanted) == 1 else f"score_{score:g}/{name}")
        camera = camera_of_clip(rows["intrinsics_img"], size_hw, focal_px)
        tracks = make_tracks(
            chosen,
            camera,
            num_frames,
            min_frames=min(config.min_frames, num_frames),
            max_gap=round(config.max_gap_s * info.fps),
        )
        if not tracks:
            log.warning("%s: nobody is seen for %d frames", path, config.min_frames)
            continue
        tracks = _smoothed(tracks, module.body, config, info.fps, path)
        clip = Clip(path, info.fps, num_frames, size_hw, camera.numpy(), about)
        write_clip(stem, clip, tracks, module.body, config)
        log.info("%s: %d people in %d frames", path, len(tracks), num_frames)
        is_written = True
    return None if is_written else f"{path}: nobody is seen for {config.min_frames} frames"


def _smoothed(
    tracks: list[Track], body_model: Any, config: DictConfig, fps: float, path: Path
) -> list[Track]:
    before = jitter(tracks, body_model, fps)
    smooth = chosen(config.smoothing)
    if smooth is None:
        log.info("%s: acceleration of the joints %.2f m/s^2, not smoothed", path, before)
        return tracks
    tracks = [smooth_track(track, smooth, fps) for track in tracks]
    after = jitter(tracks, body_model, fps)
    log.info("%s: acceleration of the joints %.2f -> %.2f m/s^2", path, before, after)
    return tracks


def _follow(rows: Rows, min_score: float, config: DictConfig, fps: float) -> Rows:
    """The people above a score, with ids."""
    rows = {key: value[rows["score"] > min_score] for key, value in rows.items()}
    tracker = chosen(config.tracker, fps=fps)
    ids = torch.full((len(rows["frame"]),), -1, dtype=torch.int64)
    last = int(rows["frame"].max()) + 1 if len(ids) else 0
    for frame in range(last):
        at = (rows["frame"] == frame).nonzero()[:, 0]
        found = tracker.update(rows["box_img"][at].numpy(), rows["score"][at].numpy())
        ids[at] = torch.from_numpy(found)
    return rows | {"id": ids}


class _Observer:
    """Predicts everybody in every frame."""

    def __init__(
        self, module: Any, cut: Any, detector: Any, name: str, config: DictConfig, fps: float
    ) -> None:
        self._module, self._cut, self._detector = module, cut, detector
        self._name, self._config, self._fps = name, config, fps
        self._given = keypoints.given_in_frames(config.keypoints, plain(config.boxes), name)
        self._tracker = chosen(config.tracker, fps=fps)
        self._parts: list[Rows] = []
        self._waiting: list[tuple[Any, Rows]] = []  # crops, and what is known about them

    def run(self, path: Path, info: videos.VideoInfo) -> tuple[Rows, int, tuple[int, int]]:
        """Rows of everybody, the number of frames, and their height and width."""
        num_frames, size_hw = 0, (0, 0)
        total = info.num_frames
        if self._config.max_seconds is not None:
            total = min(total, round(self._config.max_seconds * info.fps))
        look = self._look_at_crops if self._cut.unit == "view" else self._look_at_scenes
        with tqdm(total=total, desc=f"{self._name}: predict", unit="frame") as bar:
            for chunk in self._chunks(path, info.fps):
                look(chunk, num_frames)
                num_frames, size_hw = num_frames + len(chunk), chunk[0].shape[:2]
                bar.update(len(chunk))
        self._flush(1)
        keys = self._parts[0] if self._parts else {}
        rows = {key: torch.cat([part[key] for part in self._parts]) for key in keys}
        return rows, num_frames, (int(size_hw[0]), int(size_hw[1]))

    def _chunks(self, path: Path, fps: float) -> Iterator[list[np.ndarray]]:
        chunk: list[np.ndarray] = []
        for image in videos.read_frames(path, fps, self._config.max_seconds):
            chunk.append(image)
            if len(chunk) == self._config.batch_frames:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _look_at_scenes(self, images: list[np.ndarray], first: int) -> None:
        prediction, batch, _ = predict_scenes(self._module, self._cut, images)
        rows = scene_rows(self._module, prediction, batch, min(scores(self._config)))
        vertices = (rows.pop("vertices") + rows["transl_cam"][:, None]).numpy()
        seen = boxes_around(vertices, rows["intrinsics_img"].numpy())
        frame = rows.pop("image") + first
        self._parts.append(rows | {"frame": frame, "box_img": torch.from_numpy(seen)})

    def _look_at_crops(self, images: list[np.ndarray], first: int) -> None:
        for number, (image, found) in enumerate(
            zip(images, self._find(images, first), strict=True), start=first
        ):
            if found.ids is None:
                known = np.nan_to_num(found.scores, nan=1.0)
                found = replace(found, ids=self._tracker.update(found.boxes_img, known))
            if not len(found.boxes_img):
                continue
            focal = None if self._config.focal_px == "exif" else self._config.focal_px
            evidence = found.keypoints if self._module.adapt is not None else None
            sample = make_sample(image, found.boxes_img, focal, evidence)
            for view in range(len(found.boxes_img)):
                about = {
                    "frame": torch.tensor([number]),
                    "id": torch.tensor([int(found.ids[view])]),  # type: ignore[index]
                    "score": torch.tensor([float(found.scores[view])]),
                    "box_img": torch.from_numpy(found.boxes_img[view : view + 1]),
                }
                self._waiting.append((self._cut(sample, view, None), about))
        self._flush(self._config.batch_size)

    def _flush(self, size: int) -> None:
        """Predict the waiting crops if they fill a batch."""
        while len(self._waiting) >= size:
            batch = self._waiting[: self._config.batch_size]
            self._waiting = self._waiting[len(batch) :]
            rows = predict_crops(
                self._module, [crop for crop, _ in batch], batch_size=self._config.batch_size
            )
            rows.pop("vertices")
            known = {k: torch.cat([about[k] for _, about in batch]) for k in batch[0][1]}
            self._parts.append({k: v for k, v in rows.items() if "adapt" not in k} | known)

    def _find(self, images: list[np.ndarray], first: int) -> list[Detections]:
        """Who is in each of some frames: as given, as detected, or somebody all over it."""
        if self._given is not None:
            return [
                keypoints.frame_people(self._given, number, self._name, image.shape[:2])
                for number, image in enumerate(images, start=first)
            ]
        if self._detector is not None:
            people, height = self._config.max_people, self._config.min_height_px
            return [found.largest(people, height) for found in self._detector(images)]
        whole = [boxes.whole_image_box(image.shape[:2]) for image in images]
        return [boxes.plain(boxes.shrink_box(box, self._cut.box_scale)[None]) for box in whole]
