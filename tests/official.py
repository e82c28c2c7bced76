"""A small official-looking download and its converter, for the tests of the preparation."""

import json
import time
from pathlib import Path

import cv2
import numpy as np

from hmrkit.data.sources.official import Skipped, expect, read_image, record_key

SIZE_HW = (60, 80)


class Photos:
    """A folder ``photos`` and ``people.json``: ``[{"image", "boxes", "joints"?}]``.

    Args:
        annotations: the json, below the download.
        delay_s: how long a record takes.
    """

    kind = "scenes"
    joint_set = "coco17"

    def __init__(self, annotations="people.json", delay_s=0.0):
        self.annotations, self.delay_s = annotations, delay_s

    def open(self, folder):
        path = expect(folder, self.annotations, "Get photos.zip and unpack it.")[0]
        return PhotoRecords(folder, json.loads(path.read_text()), self.delay_s)


class PhotoRecords:
    def __init__(self, folder, rows, delay_s):
        self.folder, self.rows, self.delay_s = folder, rows, delay_s

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        time.sleep(self.delay_s)
        row = self.rows[index]
        if not row["boxes"]:
            raise Skipped("no box", row["image"])
        num = len(row["boxes"])
        sample = {
            "key": record_key(row["image"]),
            "images": [read_image(self.folder / "photos" / row["image"])],
            "image_of_view": np.zeros(num, np.int64),
            "person_of_view": np.arange(num),
            "box_img": np.array(row["boxes"], np.float32),
        }
        if "joints" in row:
            sample["keypoints_img"] = np.array(row["joints"], np.float32)
        return sample


class Drawings(Photos):
    """The same photos as arrays."""

    def open(self, folder):
        return DrawingRecords(folder, super().open(folder).rows, self.delay_s)


class DrawingRecords(PhotoRecords):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        images = [cv2.imdecode(np.frombuffer(x, np.uint8), 1)[..., ::-1] for x in sample["images"]]
        return {**sample, "images": images}


def picture(seed, size_hw=SIZE_HW):
    """A smooth picture (H, W, 3), so that resampling it is no guess."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def write_download(folder: Path, num: int = 11, suffix: str = ".jpg") -> Path:
    """A download of ``num`` photos of one or two people."""
    (folder / "photos").mkdir(parents=True)
    rows = []
    for i in range(num):
        name = f"{i:04d}{suffix}"
        cv2.imwrite(str(folder / "photos" / name), picture(i))
        boxes = [[10, 5, 30, 45], [35, 10, 70, 58]][: 1 + i % 2]
        joints = np.random.default_rng(i).uniform(5, 55, (len(boxes), 17, 3)).round(2)
        rows.append({"image": name, "boxes": boxes, "joints": joints.tolist()})
    write_rows(folder, rows)
    return folder


def read_rows(folder):
    return json.loads((folder / "people.json").read_text())


def write_rows(folder, rows):
    (folder / "people.json").write_text(json.dumps(rows))
