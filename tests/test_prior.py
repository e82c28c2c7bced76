"""Real bodies beside every batch, for pose priors."""

import numpy as np
import pytest
import torch

from hmrkit.data.crops import Crops
from hmrkit.data.datamodule import DataModule
from hmrkit.data.shards import write_manifest, write_shard
from hmrkit.geometry.rotations import rotmat_to_axis_angle

NUM_CLIPS, NUM_FRAMES = 5, 7


@pytest.fixture
def motion(tmp_path):
    """Clips whose betas say which clip and frame they are."""
    rng = np.random.default_rng(0)

    def clips():
        for clip in range(NUM_CLIPS):
            betas = np.zeros((NUM_FRAMES, 10), np.float32)
            betas[:, 0], betas[:, 1] = clip, np.arange(NUM_FRAMES)
            yield {
                "key": f"clip{clip}",
                "pose": rng.normal(0, 0.3, (NUM_FRAMES, 24, 3)).astype(np.float32),
                "betas": betas,
                "has_pose": np.ones(NUM_FRAMES, bool),
                "has_betas": np.arange(NUM_FRAMES) != 3,  # this frame is no body
            }

    folder = tmp_path / "motion"
    write_shard(folder / "000000.tar", clips(), "smpl24")
    write_manifest(folder, "motion", "motion", "smpl24", {}, "by hand")
    return folder


def module(tiny_shards, motion, **options) -> DataModule:
    train = {"a": {"path": str(tiny_shards / "quickstart_train"), "has_exact_labels": True}}
    prior = {"cmu": {"path": str(motion)}}
    made = DataModule(
        Crops((32, 32)), 4, train, {}, {}, prior=prior, num_workers=0, seed=3, **options
    )
    made.setup("fit")
    return made


def test_every_batch_has_so_many_real_bodies_per_sample(tiny_shards, motion):
    batch = next(iter(module(tiny_shards, motion, num_prior=3).train_dataloader()))
    prior = batch["prior"]
    assert prior.body_pose.shape == (12, 23, 3, 3)
    assert set(prior.betas[:, 0].tolist()) <= set(range(NUM_CLIPS))
    assert 3.0 not in prior.betas[:, 1]  # frames that lack a label are not drawn
    assert len({tuple(row) for row in prior.betas[:, :2].tolist()}) > 6
    angle = rotmat_to_axis_angle(prior.body_pose).norm(dim=-1)
    assert 0.1 < angle.mean() < 1.0


def test_the_bodies_of_a_batch_depend_on_seed_and_number_alone(tiny_shards, motion):
    first, second = (module(tiny_shards, motion).train_dataloader() for _ in range(2))
    pairs = list(zip(first, second, strict=True))[:3]
    for a, b in pairs:
        assert torch.equal(a["prior"].betas, b["prior"].betas)
    assert not torch.equal(pairs[0][0]["prior"].betas, pairs[1][0]["prior"].betas)


def test_images_are_refused_as_a_prior(tiny_shards, motion, tmp_path):
    write_shard(
        tmp_path / "bare" / "0.tar",
        [{"key": "a", "pose": np.zeros((2, 24, 3), np.float32), "has_pose": np.ones(2, bool)}],
        "smpl24",
    )
    with pytest.raises(ValueError, match="carries no betas"):
        module(tiny_shards, tmp_path / "bare")


def test_exactness_is_a_property_of_the_source(tiny_shards, motion):
    batch = next(iter(module(tiny_shards, motion).train_dataloader()))
    assert batch["has_exact_labels"].tolist() == [True] * 4
    bare = DataModule(
        Crops((32, 32)),
        4,
        {"a": {"path": str(tiny_shards / "quickstart_train")}},
        {},
        {},
        num_workers=0,
    )
    bare.setup("fit")
    batch = next(iter(bare.train_dataloader()))
    assert batch["has_exact_labels"].tolist() == [False] * 4
    assert "prior" not in batch
