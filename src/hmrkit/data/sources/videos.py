"""Frames of official videos, read forward."""

from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from hmrkit.data.sources.official import Skipped


class VideoFrames:
    """Frames by number from many videos, each of which is decoded forward only.

    Seeking is not exact in every container, so a frame before the last one that was read starts
    its video anew: ask in order. Frames in between are decoded but not converted.

    Args:
        max_open: videos that are kept open.
    """

    def __init__(self, max_open: int = 16) -> None:
        self.max_open = max_open
        self._open: OrderedDict[Path, tuple[cv2.VideoCapture, int]] = OrderedDict()

    def __getstate__(self) -> dict[str, int]:
        """Leave the open videos behind: every process opens its own."""
        return {"max_open": self.max_open}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, path: Path, frame: int) -> np.ndarray:
        """Frame (H, W, 3) uint8 RGB; the first has number 0.

        Raises:
            Skipped: if there is no such file or it ends before.
        """
        capture, position = self._open.pop(path, (None, 0))
        if capture is None or position > frame + 1:
            capture, position = self._start(path), 0
        while position <= frame:
            if not capture.grab():
                raise Skipped("video ends before the frame", f"{path}: frame {frame}")
            position += 1
        is_read, image = capture.retrieve()
        if not is_read:
            raise Skipped("video frame cannot be decoded", f"{path}: frame {frame}")
        self._open[path] = (capture, position)
        if len(self._open) > self.max_open:
            self._open.popitem(last=False)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _start(self, path: Path) -> cv2.VideoCapture:
        if not path.is_file():
            raise Skipped("video is missing", str(path))
        capture = cv2.VideoCapture(str(path))
        if not capture.isOpened():
            raise Skipped("video cannot be opened", str(path))
        return capture
