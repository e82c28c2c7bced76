"""Videos: frames upright and at a constant rate, and H.264 that plays in browsers."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

_CRF = 18  # of x264: visually lossless
_KEYFRAME_EVERY = 12  # frames; players that seek, as viewer.html does, need them close

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What the header says.

    Attributes:
        fps: frames per second at which ``read_frames`` gives them.
        num_frames: how many those will be; an estimate, for the progress bar.
    """

    fps: float
    num_frames: int


def probe(path: Path, fps: float | None = None) -> VideoInfo:
    """Rate and length.

    Args:
        path: the video.
        fps: asked-for rate; default: its own, or the mean of a variable one.

    Raises:
        ValueError: if it is no video that FFmpeg knows.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = _stream(container, path)
            own = float(stream.average_rate or stream.base_rate or 25)
            seconds = _seconds(container, stream, own)
    except av.error.FFmpegError as error:
        raise _broken(path, error) from error
    rate = own if fps is None else min(fps, own)
    return VideoInfo(rate, max(1, round(seconds * rate)))


def read_frames(
    path: Path, fps: float | None = None, max_seconds: float | None = None
) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 RGB at a constant rate, turned upright.

    At every instant it is the frame on display then (to half a frame): where the rate varies, some
    are repeated and some left out, so that frame i shows the moment ``i / probe(path).fps``.

    Args:
        path: the video.
        fps: asked-for rate; default: its own, or the mean of a variable one.
        max_seconds: where to stop; default: the end.

    Raises:
        ValueError: if it cannot be decoded.
    """
    import av

    rate = probe(path, fps).fps
    limit = np.inf if max_seconds is None else max_seconds * rate
    number, shown, begin = 0, None, None
    try:
        with av.open(str(path)) as container:
            stream = _stream(container, path)
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                begin = frame.time if begin is None else begin
                while shown is not None and (number + 0.5) / rate < frame.time - begin:
                    if number >= limit:
                        return
                    yield _upright(shown)
                    number += 1
                shown = frame
    except av.error.FFmpegError as error:
        if shown is None:
            raise _broken(path, error) from error
        log.warning("%s ends early, after %d frames: %s", path, number, error)
    if shown is None:
        raise _broken(path, "no frame in it")
    if number < limit:
        yield _upright(shown)


class VideoWriter:
    """H.264 in MP4, 4:2:0, as browsers, phones and slides play it; a context manager.

    Args:
        path: the file; it appears when all is written.
        fps: frames per second.
        crf: x264's quality, smaller is better.
    """

    def __init__(self, path: Path, fps: float, crf: int = _CRF) -> None:
        self.path, self._fps, self._crf = path, Fraction(fps).limit_denominator(1001), crf
        self._partial = path.with_name(f".{path.name}.part")
        self._container: Any = None
        self._stream: Any = None

    def write(self, image: np.ndarray) -> None:
        """Append (H, W, 3) uint8 RGB; all of one size. An odd last row or column is repeated."""
        import av

        height, width = image.shape[:2]
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._container is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(
                str(self._partial), "w", format="mp4", options={"movflags": "+faststart"}
            )
            self._stream = self._container.add_stream("libx264", rate=self._fps)
            self._stream.height, self._stream.width = even.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.gop_size = _KEYFRAME_EVERY
            self._stream.options = {"crf": str(self._crf), "preset": "fast"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._container is None:
            return
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)


def record_webcam(index: int, path: Path, seconds: float) -> Path:
    """Film with a camera of this machine and write a video of it.

    Args:
        index: of the camera, 0 is the first.
        path: the video to make.
        seconds: how long.

    Raises:
        ValueError: if there is no such camera.
    """
    import cv2

    camera = cv2.VideoCapture(index)
    try:
        fps = camera.get(cv2.CAP_PROP_FPS) or 30.0
        is_read, frame = camera.read()
        if not is_read:
            raise ValueError(f"input={index}: there is no camera {index} here, or another uses it")
        log.info("filming with camera %d for %g s", index, seconds)
        with VideoWriter(path, fps) as writer:
            for _ in range(max(1, round(seconds * fps))):
                writer.write(frame[..., ::-1])
                is_read, frame = camera.read()
                if not is_read:
                    break
    finally:
        camera.release()
    return path


def _stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise _broken(path, "there is no picture in it, only sound")
    return container.streams.video[0]


def _seconds(container: Any, stream: Any, fps: float) -> float:
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / 1e6
    return (stream.frames or 1) / fps


def _upright(frame: Any) -> np.ndarray:
    """RGB with the display matrix applied; ``rotation`` is counter-clockwise in degrees."""
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))


def _broken(path: Path, error: object) -> ValueError:
    return ValueError(f"{path} cannot be decoded as a video: {error}")
