"""What the cameras of a rig saw: a folder of pictures or a video for each, instant by instant."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hmrkit.infer.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES, read_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shots:
    """The pictures of one camera by name of the instant: files, or frames of a video."""

    files: Mapping[str, Path | int]
    video: Path | None = None


@dataclass
class RigPictures:
    """The pictures of all cameras.

    Attributes:
        shots: by camera.
        instants: names in order; not every camera need have a picture of each.
    """

    shots: dict[str, Shots]
    instants: list[str]

    def __post_init__(self) -> None:
        self._videos: dict[str, tuple[cv2.VideoCapture, int]] = {}  # and the next frame's number

    def read(self, camera: str, instant: str) -> np.ndarray | None:
        """A picture (H, W, 3) uint8 RGB; None if this camera has none of the instant.

        Videos are decoded forwards, so ask in order.

        Raises:
            ValueError: if it cannot be decoded.
        """
        shots = self.shots[camera]
        if instant not in shots.files:
            return None
        picture = shots.files[instant]
        return read_image(picture) if isinstance(picture, Path) else self._frame(camera, picture)

    def _frame(self, camera: str, number: int) -> np.ndarray:
        path = self.shots[camera].video
        capture, position = self._videos.get(camera) or (cv2.VideoCapture(str(path)), 0)
        while position < number and capture.grab():
            position += 1
        is_read, image = capture.read() if position == number else (False, None)
        self._videos[camera] = capture, position + is_read
        if not is_read:
            raise ValueError(f"{path}: frame {number} cannot be decoded")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def find_pictures(
    source: Path, cameras: Collection[str], output: Path, frame_step: int = 1
) -> RigPictures:
    """Find the pictures of the calibrated cameras.

    Args:
        source: a folder with, for each camera, a folder of pictures ``<camera>/``, a video
            ``<camera>.mp4`` or a single picture ``<camera>.jpg``. Pictures of the same name in
            several cameras show the same instant; if no name occurs twice and all cameras have
            equally many pictures, they go together in the order of their names.
        cameras: names of the calibration.
        output: where results will go; it is never an input.
        frame_step: of the instants, in order, every so many-th is kept.

    Raises:
        FileNotFoundError: if there is no such folder or no picture of a calibrated camera in it.
        ValueError: if instants cannot be told.
    """
    if frame_step < 1:
        raise ValueError(f"frame_step={frame_step}: 1 takes every frame")
    if not source.is_dir():
        raise FileNotFoundError(
            f"input={source}: a rig is a folder with a folder, video or picture per camera"
        )
    names = list(cameras)
    shots = {camera: _shots(source, camera, output) for camera in names}
    shots = {camera: found for camera, found in shots.items() if found is not None}
    if not shots:
        raise FileNotFoundError(
            f"input={source} has no folder, video or picture named after one of the cameras of the "
            f"calibration: {', '.join(names)}"
        )
    for camera in names:
        if camera not in shots:
            log.warning("camera %s is calibrated but has no pictures in %s", camera, source)
    shots, instants = _align(shots)
    return RigPictures(shots, instants[::frame_step])


def _shots(source: Path, camera: str, output: Path) -> Shots | None:
    folder = source / camera
    if folder.is_dir() and folder.resolve() != output.resolve():
        files = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES]
        return Shots({p.stem: p for p in files}) if files else None
    found = [p for p in sorted(source.iterdir()) if p.stem == camera and p.is_file()]
    for path in found:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return Shots({f"{i:06d}": i for i in range(_num_frames(path))}, path)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return Shots({path.stem: path})
    return None


def _num_frames(path: Path) -> int:
    """Frames of a video, counted: what its header says is often wrong."""
    capture, number = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        number += 1
    capture.release()
    if not number:
        raise ValueError(f"{path} has no frame that can be decoded")
    return number


def _align(shots: Mapping[str, Shots]) -> tuple[dict[str, Shots], list[str]]:
    """The same pictures with the same names for the same instants, and these in order."""
    every = [name for found in shots.values() for name in found.files]
    counts = {len(found.files) for found in shots.values()}
    if len(shots) > 1 and len(set(every)) == len(every):
        if len(counts) > 1:
            raise ValueError(
                "no picture of one camera has the name of another's, and they have "
                f"{sorted(counts)} pictures: name pictures of the same instant alike"
            )
        in_order = {
            camera: {f"{i:06d}": found.files[name] for i, name in enumerate(sorted(found.files))}
            for camera, found in shots.items()
        }
        shots = {camera: Shots(files, shots[camera].video) for camera, files in in_order.items()}
        every = list(next(iter(in_order.values())))
    return dict(shots), sorted(set(every))


def check_boxes(
    given: object, cameras: Sequence[str], instants: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Boxes of a JSON file for the cameras of a rig.

    Args:
        given: ``{camera: box}`` for all instants, or ``{camera: {instant: box}}``, where ``box`` is
            ``[x1, y1, x2, y2]`` px, or a list of one per person, null for who is not seen.
        cameras: of the rig.
        instants: of the pictures.

    Returns:
        camera -> instant -> (P, 4) px, NaN for who is not seen.

    Raises:
        ValueError: if the boxes are malformed, or of a camera that is not there.
    """
    remedy = 'give {"<camera>": [x1,y1,x2,y2]} or {"<camera>": {"<instant>": [x1,y1,x2,y2]}}'
    if not isinstance(given, Mapping) or not set(given) <= set(cameras):
        raise ValueError(f"boxes of a rig are by camera ({', '.join(cameras)}): {remedy}")
    boxes: dict[str, dict[str, np.ndarray]] = {}
    for camera, entry in given.items():
        per_instant = entry if isinstance(entry, Mapping) else dict.fromkeys(instants, entry)
        boxes[camera] = {name: _people(box, camera, remedy) for name, box in per_instant.items()}
    return boxes


def _people(box: object, camera: str, remedy: str) -> np.ndarray:
    """One box or several as (P, 4)."""
    is_single = isinstance(box, list) and len(box) == 4 and not isinstance(box[0], list | None)
    rows = [box] if is_single else box
    try:
        array = np.array([[np.nan] * 4 if row is None else row for row in rows], np.float64)  # type: ignore[union-attr]
        is_right = array.ndim == 2 and array.shape[1] == 4
    except (TypeError, ValueError):
        is_right = False
    if not is_right:
        raise ValueError(f"boxes of camera {camera!r} {box}: {remedy}")
    is_seen = ~np.isnan(array).any(axis=1)
    if not (array[is_seen, :2] < array[is_seen, 2:]).all():
        raise ValueError(f"boxes of camera {camera!r} {box}: x1 < x2 and y1 < y2; {remedy}")
    return array
