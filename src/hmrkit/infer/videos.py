"""Videos as pictures: their frames in a folder, and the overlays of those as a video again."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from hmrkit.infer.inputs import VIDEO_SUFFIXES

_QUALITY = 95  # of the JPEGs

log = logging.getLogger(__name__)


def find_videos(sources: Sequence[str | Path]) -> dict[str, Path]:
    """The videos among what a user named, each with a name of its own.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    videos: dict[str, Path] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        if not path.is_file():
            raise FileNotFoundError(f"input={path}: no such file; check the path")
        name, number = path.stem, 2
        while name in videos:
            name, number = f"{path.stem}_{number}", number + 1
        videos[name] = path
    return videos


def write_frames(path: Path, folder: Path) -> int:
    """Decode a video into ``<folder>/000001.jpg`` and so on, upright; the number of frames.

    Raises:
        ValueError: if it cannot be decoded.
    """
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoCapture(str(path))
    number = 0
    try:
        while True:
            is_read, frame = video.read()
            if not is_read:
                break
            number += 1
            name = str(folder / f"{number:06d}.jpg")
            cv2.imwrite(name, frame, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    finally:
        video.release()
    if not number:
        raise ValueError(
            f"input={path} cannot be decoded as a video; make pictures of it, for example with "
            f"ffmpeg -i {path.name} frames/%05d.jpg, and give that folder"
        )
    return number


def join_overlays(videos: Mapping[str, Path], output: Path) -> None:
    """Join the overlays of every video's frames to ``<name>_overlay.mp4``, beside their folder.

    Args:
        videos: name -> video, as ``find_videos`` gives them.
        output: where the results are, in ``<name>/`` or ``score_<number>/<name>/``.
    """
    import cv2

    for name, path in videos.items():
        video = cv2.VideoCapture(str(path))
        frames_per_second = video.get(cv2.CAP_PROP_FPS) or 25.0
        video.release()
        folders = [output / name, *(f / name for f in sorted(output.glob("score_*")))]
        for folder in (f for f in folders if f.is_dir()):
            overlays = sorted(folder.glob("*_overlay.jpg"))
            if not overlays:
                continue
            joined = folder.with_name(f"{name}_overlay.mp4")
            height, width = cv2.imread(str(overlays[0])).shape[:2]
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(joined), codec, frames_per_second, (width, height))
            for overlay in overlays:
                writer.write(cv2.imread(str(overlay)))
            writer.release()
            log.info("%s: %d frames", joined, len(overlays))
