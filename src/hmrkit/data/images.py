"""The images of a record, decoded when a cut asks for them, and only as finely as it needs them."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import cv2
import numpy as np
import simplejpeg

from hmrkit.data.record import BadRecord, decode_image

IMAGE_FILES = ("jpg", "jpeg", "png")  # how their names end
REDUCTIONS = (1, 2, 4, 8)  # what the JPEG decoder does while it decodes


class LazyImages(Sequence[np.ndarray]):
    """Images (H, W, 3) uint8 RGB like a list of them, decoded when they are asked for.

    What was decoded of an image is kept until another image is asked for: who needs an image
    several times asks for it several times in a row.

    Args:
        files: contents of JPEG or PNG files, in order.
        fail: makes what is raised where image i cannot be decoded, of its number and the reason.
    """

    def __init__(self, files: Sequence[bytes], fail: Callable[[int, str], Exception]) -> None:
        self._images = [_Stored(i, file, fail) for i, file in enumerate(files)]
        self._latest: list[_Stored] = []  # one at most; shared with what is picked

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, which: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, which: slice) -> "LazyImages": ...

    def __getitem__(self, which: int | slice) -> "np.ndarray | LazyImages":
        """An image, or several that are still not decoded."""
        if isinstance(which, slice):
            return self.pick(range(len(self))[which])
        return self._image(which).pixels(1, 3)

    def rgba(self, number: int, reduction: int) -> np.ndarray:
        """Image (H, W, 4) to be warped; at a fraction of its size for 2, 4 or 8, rounded up.

        The fourth channel means nothing. It costs the decoder nothing either, and OpenCV warps four
        channels in half the time of three.
        """
        return self._image(number).pixels(reduction, 4)

    def size(self, number: int) -> tuple[int, int]:
        """Height and width of an image, px."""
        return self._images[number].size()

    def is_reducible(self, number: int) -> bool:
        """Whether the image can be decoded at a fraction of its size."""
        return self._images[number].is_jpeg

    def pick(self, numbers: Sequence[int]) -> "LazyImages":
        """Some of the images, still not decoded."""
        picked = LazyImages((), ValueError)
        picked._images, picked._latest = [self._images[i] for i in numbers], self._latest
        return picked

    def _image(self, number: int) -> "_Stored":
        """An image of which more is going to be decoded."""
        image = self._images[number]
        if self._latest and self._latest[0] is not image:
            self._latest.pop().decoded.clear()
        self._latest[:] = [image]
        return image


class _Stored:
    """One image file, and what was decoded of it."""

    def __init__(self, number: int, file: bytes, fail: Callable[[int, str], Exception]) -> None:
        self.number, self.file, self.fail = number, file, fail
        self.is_jpeg = file.startswith(b"\xff\xd8")
        self.decoded: dict[tuple[int, int], np.ndarray] = {}  # by reduction and channels
        self.hw: tuple[int, int] | None = None

    def size(self) -> tuple[int, int]:
        if self.hw is None:
            self.hw = self._guarded(self._read_size)
        return self.hw

    def pixels(self, reduction: int, channels: int) -> np.ndarray:
        form = reduction, channels
        if form not in self.decoded:
            self.decoded[form] = self._guarded(lambda: self._decode(reduction, channels))
        return self.decoded[form]

    def _read_size(self) -> tuple[int, int]:
        if not self.is_jpeg:
            return self.pixels(1, 4).shape[:2]
        return simplejpeg.decode_jpeg_header(self.file)[:2]

    def _decode(self, reduction: int, channels: int) -> np.ndarray:
        if channels == 3:
            return decode_image(self.file)
        if not self.is_jpeg:
            assert reduction == 1, "only JPEG files are decoded at a fraction of their size"
            return cv2.cvtColor(decode_image(self.file), cv2.COLOR_RGB2RGBA)
        height, width = (-(-side // reduction) for side in self.size())
        return simplejpeg.decode_jpeg(
            self.file, "RGBA", min_height=height, min_width=width, min_factor=reduction
        )

    def _guarded(self, read: Callable) -> Any:
        try:
            return read()
        except ValueError as error:
            raise self.fail(self.number, f"cannot be decoded: {error}") from error


def lazy_images(shard: str) -> Callable[[Sequence[bytes], str], LazyImages]:
    """What ``record.decode_record`` makes the images of a shard's records with."""

    def read_images(files: Sequence[bytes], key: str) -> LazyImages:
        return LazyImages(files, lambda i, why: BadRecord(shard, key, f"image {i} {why}", "image"))

    return read_images


def image_size(images: Sequence[np.ndarray], number: int) -> tuple[int, int]:
    """Height and width of one of a record's images, px."""
    return images.size(number) if isinstance(images, LazyImages) else images[number].shape[:2]


def pick_images(images: Sequence[np.ndarray], numbers: Sequence[int]) -> Sequence[np.ndarray]:
    """Some of a record's images, not decoded if they were not."""
    if isinstance(images, LazyImages):
        return images.pick(numbers)
    return [images[i] for i in numbers]
