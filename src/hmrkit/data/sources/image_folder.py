"""A folder of images without labels, such as the test images of a benchmark."""

from pathlib import Path

import numpy as np

from hmrkit.data.sources.official import expect, read_image, record_key
from hmrkit.types import Sample

_SUFFIXES = (".jpeg", ".jpg", ".png")


class ImageFolder:
    """Scenes without people: one for every image right inside a folder, sorted by name.

    Args:
        images: the folder, below the input; "." for the input itself.
        where: what a user who gave another folder is told.
    """

    kind = "scenes"
    joint_set = "all"

    def __init__(self, images: str, where: str) -> None:
        self.images, self.where = images, where

    def open(self, folder: Path) -> "ImageRecords":
        """List the images; other files are passed over."""
        inside = "" if self.images == "." else f"{self.images}/"
        paths = expect(folder, f"{inside}*.[jp][pn]*g", self.where)
        return ImageRecords([path for path in paths if path.suffix in _SUFFIXES])


class ImageRecords:
    """One record for every image."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Make the record of one image."""
        nobody = np.zeros(0, np.int64)
        path = self.paths[index]
        return {
            "key": record_key(path.name),
            "images": [read_image(path)],
            "image_of_view": nobody,
            "person_of_view": nobody,
            "box_img": np.zeros((0, 4), np.float32),
        }
