"""Parts of official downloads for the tests of converters, and the way from there to a batch."""

from pathlib import Path

import cv2
import numpy as np
import torch

from hmrkit.body.gendered import GenderedBodies
from hmrkit.data.collate import collate
from hmrkit.data.crops import Crops
from hmrkit.data.shards import ShardSet, write_manifest, write_shard
from hmrkit.data.sources.official import Converter, Skipped
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Batch, Body, Mesh, Sample
from parity import fill


def write_photo(path: Path, size_hw: tuple[int, int] = (120, 160), seed: int = 0) -> bytes:
    """A small picture, JPEG or PNG by its name; its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(coarse, size_hw[::-1]))
    return path.read_bytes()


def write_bodies(folder: Path) -> str:
    """Nonsense bodies of the three genders, and the regressors, by their distributed names."""
    folder.mkdir(parents=True, exist_ok=True)
    for gender in ("NEUTRAL", "MALE", "FEMALE"):
        np.savez(folder / f"SMPL_{gender}.npz", **fill.smpl(f"/{gender}"))
    for name, rows in (("J_regressor_extra", 9), ("J_regressor_h36m", 17)):
        np.save(folder / f"{name}.npy", fill.joint_regressor(name, rows))
    return str(folder)


def convert(converter: Converter, folder: Path, output: Path) -> tuple[ShardSet, dict[str, int]]:
    """Shards of a download, and how many were left out by reason."""
    records = converter.open(folder)
    counts: dict[str, int] = {}

    def samples():
        for index in range(len(records)):
            left_out = []
            try:
                yield records[index]
                left_out = getattr(records, "left_out", [])
            except Skipped as skipped:
                left_out = [skipped]
            for one in left_out:
                counts[one.reason] = counts.get(one.reason, 0) + 1

    write_shard(output / "000000.tar", samples(), converter.joint_set)
    write_manifest(output, "made", converter.kind, converter.joint_set, {}, "a test")
    return ShardSet(output, "made"), counts


def cut_views(sample: Sample) -> Batch:
    """Every view of a record as a crop of a batch."""
    crops = Crops(input_size=[64, 64])
    return collate([crops(sample, view, None) for view in range(len(sample["image_of_view"]))])


def crop_to_img(batch: Batch) -> np.ndarray:
    """Keypoints (O, K, 3) of a batch, back in px of the source image."""
    affine, points = batch["crop_to_img"].numpy(), batch["keypoints_crop"].numpy()
    pixels = points[..., :2] @ affine[:, :, :2].transpose(0, 2, 1) + affine[:, None, :, 2]
    return np.concatenate([pixels, points[..., 2:]], axis=-1)


def pose_bodies(
    bodies: GenderedBodies, pose: np.ndarray, betas: np.ndarray, transl: np.ndarray, gender: int
) -> Mesh:
    """The meshes of people (P, 24, 3), (P, 10), (P, 3) of one gender."""
    rotmat = axis_angle_to_rotmat(torch.from_numpy(pose.astype(np.float32)))
    shape, place = (torch.from_numpy(x.astype(np.float32)) for x in (betas, transl))
    return bodies[gender](Body(rotmat[:, 0], rotmat[:, 1:], shape, place))


def project(points: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (..., 3) m as px (..., 2)."""
    rays = points @ intrinsics.T
    return rays[..., :2] / rays[..., 2:]


def read_all(shards: ShardSet) -> list[Sample]:
    """Every record, read from disk and checked."""
    return [shards.read(index) for index in range(len(shards))]
