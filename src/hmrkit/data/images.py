"""The images of a record, decoded when a cut asks for them, and only as finely as it needs them."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import simplejpeg

from hmrkit.data.record import BadRecord, decode_image

REDUCTIONS = (1, 2, 4, 8)  # what the JPEG decoder does while it decodes


class LazyImages(Sequence[np.ndarray]):
    """Images (H, W, 3) uint8 RGB like a list of them; each is decoded once, if at all.

    Args:
        files: contents of JPEG or PNG files, in order.
        fail: makes what is raised where image i cannot be decoded, of its number and the reason.
    """

    def __init__(self, files: Sequence[bytes], fail: Callable[[int, str], Exception]) -> None:
        self._images = [_Stored(i, file, fail) for i, file in enumerate(files)]

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, which: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, which: slice) -> "LazyImages": ...

    def __getitem__(self, which: int | slice) -> "np.ndarray | LazyImages":
        """An image, or several that are still not decoded."""
        return self.pick(range(len(self))[which]) if isinstance(which, slice) else self.at(which, 1)

    def at(self, number: int, reduction: int) -> np.ndarray:
        """Image ``number``, at a fraction of its size for 2, 4 or 8, sides rounded up."""
        return self._images[number].pixels(reduction)

    def size(self, number: int) -> tuple[int, int]:
        """Height and width of an image, px."""
        return self._images[number].size()

    def is_reducible(self, number: int) -> bool:
        """Whether the image can be decoded at a fraction of its size."""
        return self._images[number].is_jpeg

    def pick(self, numbers: Sequence[int]) -> "LazyImages":
        """Some of the images, still not decoded."""
        picked = LazyImages((), ValueError)
        picked._images = [self._images[i] for i in numbers]
        return picked


class _Stored:
    """One image file, and what was decoded of it."""

    def __init__(self, number: int, file: bytes, fail: Callable[[int, str], Exception]) -> None:
        self.number, self.file, self.fail = number, file, fail
        self.is_jpeg = file.startswith(b"\xff\xd8")
        self.decoded: dict[int, np.ndarray] = {}  # by reduction
        self.hw: tuple[int, int] | None = None

    def size(self) -> tuple[int, int]:
        if self.hw is None:
            self.hw = self._guarded(self._read_size)
        return self.hw

    def pixels(self, reduction: int) -> np.ndarray:
        if reduction not in self.decoded:
            self.decoded[reduction] = self._guarded(lambda: self._decode(reduction))
        return self.decoded[reduction]

    def _read_size(self) -> tuple[int, int]:
        if not self.is_jpeg:
            return self.pixels(1).shape[:2]
        return simplejpeg.decode_jpeg_header(self.file)[:2]

    def _decode(self, reduction: int) -> np.ndarray:
        if reduction == 1:
            return decode_image(self.file)
        assert self.is_jpeg, "only JPEG files are decoded at a fraction of their size"
        assert reduction in REDUCTIONS, reduction
        height, width = (-(-side // reduction) for side in self.size())
        return simplejpeg.decode_jpeg(
            self.file, min_height=height, min_width=width, min_factor=reduction
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
