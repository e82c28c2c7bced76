"""Small sources of shards for the tests of the loading of data."""

from pathlib import Path

import numpy as np

from hmrkit.data.crops import Crops
from hmrkit.data.index import read_index
from hmrkit.data.shards import write_manifest, write_shard

JOINTS = "smpl24"


def make_sample(number, num_images=1, num_people=1, size=32):
    """One record with every label, all numbers different."""
    rng = np.random.default_rng(number)
    views = [(i, p) for i in range(num_images) for p in range(num_people)]
    image_of_view, person_of_view = np.array(views, np.int64).reshape(-1, 2).T
    num_views = len(views)
    corner = rng.uniform(0, 10, (num_views, 2))
    return {
        "key": f"r{number:04d}",
        "source": "made",
        "images": [rng.integers(0, 255, (size, size + i, 3), np.uint8) for i in range(num_images)],
        "intrinsics": np.tile(np.diag([50, 50, 1]).astype(np.float32), (num_images, 1, 1)),
        "image_of_view": image_of_view.copy(),
        "person_of_view": person_of_view.copy(),
        "box_img": np.hstack([corner, corner + 15]).astype(np.float32),
        "keypoints_img": rng.uniform(0.1, 20, (num_views, 24, 3)).astype(np.float32),
        "keypoints_world": rng.uniform(0.1, 1, (num_people, 24, 4)).astype(np.float32),
        "pose": rng.normal(size=(num_people, 24, 3)).astype(np.float32),
        "betas": rng.normal(size=(num_people, 10)).astype(np.float32),
        "transl": rng.normal(size=(num_people, 3)).astype(np.float32),
        "has_pose": np.ones(num_people, bool),
        "has_betas": np.ones(num_people, bool),
    }


class Tagged:
    """The real crop, and a random number that shows which augmentation was drawn."""

    unit = "view"

    def __init__(self):
        self.crops = Crops(input_size=[16, 16])

    def __call__(self, sample, view, rng):
        cut = self.crops(sample, view, None)
        draw = 0.0 if rng is None else rng.normal()
        return {**cut, "betas": np.full((1, 10), draw, np.float32)}


def make_source(folder, num, num_shards=2, people=1, seed=0):
    rng = np.random.default_rng(seed)

    def sample(i):
        corner = rng.uniform(0, 5, (people, 2))
        return {
            "key": f"{folder.name}{i:04d}",
            "images": [rng.integers(0, 255, (24, 24, 3), np.uint8)],
            "image_of_view": np.zeros(people, np.int64),
            "person_of_view": np.arange(people),
            "box_img": np.hstack([corner, corner + 12]).astype(np.float32),
            "betas": np.zeros((people, 10), np.float32),
            "has_betas": np.ones(people, bool),
        }

    for shard, numbers in enumerate(np.array_split(np.arange(num), num_shards)):
        samples = (sample(int(i)) for i in numbers)
        write_shard(folder / f"{shard:06d}.tar", samples, "smpl24", image_format="png")
    write_manifest(folder, folder.name, "crops", "smpl24", {}, "test")
    return str(folder)


def damage(folder, keys):
    for tar in Path(folder).glob("*.tar"):
        index = read_index(tar)
        for i, key in enumerate(index.keys):
            if key in keys:
                with tar.open("r+b") as file:
                    file.seek(int(index.offset[index.first_member[i]]) + 20)
                    file.write(b"\xff" * 8)


def make_rigs(folder: Path) -> Path:
    """Two shards of five records, two people in two images each."""
    for shard in range(2):
        samples = (make_sample(5 * shard + i, 2, 2) for i in range(5))
        write_shard(folder / f"{shard:06d}.tar", samples, JOINTS, image_format="png")
    write_manifest(folder, "made", "rigs", JOINTS, {"num": 10}, "a test")
    return folder
