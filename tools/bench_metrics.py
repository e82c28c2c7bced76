"""Time of an evaluation after the network, beside the loops of the field.

    python tools/bench_metrics.py [--people 256] [--rounds 5] [--batch 32]

One process, one thread, the same people and the same body (the free one, by smplx in the loops).
Two loops are written here in the way of published scripts, and run in turns with hmrkit:

``from parameters`` (SPIN, PyMAF, Meta-HMR): the prediction's mesh and for everybody the neutral,
the male and the female body of the label; a dense joint regressor on both meshes; vertex errors by
``sqrt``; one SVD per person. hmrkit: the prediction's mesh and ``GenderedProtocol``, which also
scores the mean pose.

``from vertices`` (4D-Humans, HeatFormer): both meshes and joints are there; vertices are moved to
their roots, one batched SVD. hmrkit: the same three numbers of ``hmrkit.metrics``.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import smplx
import torch

from hmrkit import metrics
from hmrkit.body import joints
from hmrkit.body.free import free_body, free_body_data, write_smplx_pickle
from hmrkit.body.smpl import SMPL
from hmrkit.gendered_evaluation import GenderedProtocol
from hmrkit.geometry.rotations import axis_angle_to_rotmat
from hmrkit.types import Batch, Body, Mesh, Prediction

SCORED = joints.index(list(joints.names("h36m14")), "h36m17")
ROOT = joints.index(["h36m_pelvis"], "h36m17")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for gender in ("NEUTRAL", "MALE", "FEMALE"):
            write_smplx_pickle(Path(folder) / f"SMPL_{gender}.pkl")
        np.save(Path(folder) / "J_regressor_h36m.npy", free_body_data().J_regressor_h36m)
        people = People(options.people, options.batch, folder)
        print(f"{'':42}{'loop':>9}{'hmrkit':>9}{'times':>7}{'difference':>13}   ms per person")
        for name, pair in cases(people).items():
            report(name, pair, options.people, options.rounds)


def report(name: str, pair: tuple[Callable, Callable], num: int, rounds: int) -> None:
    """One row: medians of rounds in turns, and the largest relative difference of the scores."""
    theirs, ours = (np.asarray(run()) for run in pair) if "error" in name else (None, None)
    spent = np.zeros((rounds, 2))
    for row in spent:
        for side, run in enumerate(pair):
            started = time.perf_counter()
            run()
            row[side] = time.perf_counter() - started
    loop, own = 1e3 * np.median(spent, axis=0) / num
    difference = "" if theirs is None else f"{np.abs(ours / theirs - 1).max():.0e}"
    print(f"{name:42}{loop:9.3f}{own:9.3f}{loop / own:7.1f}{difference:>13}")


class People:
    """Labels and predictions of made-up people, as parameters and as meshes, in batches."""

    def __init__(self, num: int, batch: int, folder: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pose = 0.4 * torch.randn(num, 24, 3, generator=generator)
        self.betas = torch.randn(num, 10, generator=generator)
        turned = self.pose + 0.1 * torch.randn(num, 24, 3, generator=generator)
        self.found = body_of(turned, self.betas + 0.3)
        self.label = body_of(self.pose, self.betas)
        self.gender = torch.arange(num) % 2
        self.parts = [slice(first, first + batch) for first in range(0, num, batch)]
        self.body = free_body()
        self.folder = folder
        self.smplx = [
            smplx.SMPL(Path(folder) / f"SMPL_{gender}.pkl", create_transl=False)
            for gender in ("NEUTRAL", "MALE", "FEMALE")
        ]
        self.regressor = torch.from_numpy(free_body_data().J_regressor_h36m).float()
        self.meshes = [whole_mesh(self.body, b, self.parts) for b in (self.found, self.label)]
        self.points = [self.body.joints_from_mesh(mesh, "h36m17") for mesh in self.meshes]

    def batch(self, part: slice) -> Batch:
        """What a batch of the test set holds for the scores."""
        yes = torch.ones(len(self.gender[part]), dtype=torch.bool)
        return {
            "body": rows_of(self.label, part),
            "gender": self.gender[part],
            "has_pose": yes,
            "has_betas": yes,
            "keypoints_world": torch.zeros(len(yes), len(joints.names("all")), 4),
        }


def cases(people: People) -> dict[str, tuple[Callable, Callable]]:
    """Per row, the loop and hmrkit."""
    first, second = (mesh.vertices for mesh in people.meshes)

    def in_parts(measure: Callable) -> Callable:
        return lambda: np.concatenate([measure(part) for part in people.parts], axis=-1)

    return {
        "error from parameters": (in_parts(by_script(people)), in_parts(by_protocol(people))),
        "  one body per person": (
            in_parts(lambda part: smplx_vertices(people, 0, part)[:, 0, 0].numpy()),
            in_parts(lambda part: people.body(rows_of(people.label, part)).vertices[:, 0, 0]),
        ),
        "error from vertices": (in_parts(by_evaluator(people)), in_parts(by_metrics(people))),
        "  vertices": (
            in_parts(lambda part: distances(first[part], second[part])),
            in_parts(lambda part: metrics.pve_mm(first[part], second[part])),
        ),
        "  reading them once, no more": (
            lambda: torch.dot(first.view(-1), second.view(-1)),
            lambda: torch.dot(first.view(-1), second.view(-1)),
        ),
    }


def by_script(people: People) -> Callable[[slice], np.ndarray]:
    """SPIN's way: (3, p) mm of a batch."""

    def score(part: slice) -> np.ndarray:
        found = rows_of(people.found, part)
        rotations = {"global_orient": found.global_orient[:, None], "body_pose": found.body_pose}
        own = people.smplx[0](**rotations, betas=found.betas, pose2rot=False).vertices
        smplx_vertices(people, 0, part)  # the neutral label, which these scripts pose as well
        target, female = (smplx_vertices(people, gender, part) for gender in (1, 2))
        is_female = people.gender[part] == 1
        target[is_female] = female[is_female]
        regressor = people.regressor.expand(len(own), -1, -1)
        points, goal = regressor @ own, regressor @ target
        points, goal = (x[:, SCORED] - x[:, ROOT] for x in (points, goal))
        pairs = zip(points.numpy(), goal.numpy(), strict=True)
        aligned = [procrustes_error(*pair) for pair in pairs]
        return np.stack([distances(points, goal), aligned, distances(own, target)])

    return score


def by_protocol(people: People) -> Callable[[slice], np.ndarray]:
    """The same by hmrkit, and the mean pose's."""
    protocol = GenderedProtocol(
        "3dpw_pymaf", "h36m14", ["h36m_pelvis"], body_models=people.folder, pve_origin="body"
    )

    def score(part: slice) -> np.ndarray:
        found = rows_of(people.found, part)
        mesh = people.body(found)
        prediction = Prediction(found, found.transl, found.global_orient, mesh=mesh)
        rows = protocol.measure(prediction, people.batch(part), people.body)
        return np.stack([rows[name].numpy() for name in ("mpjpe", "pa_mpjpe", "pve")])

    return score


def by_evaluator(people: People) -> Callable[[slice], np.ndarray]:
    """4D-Humans' way: (3, p) mm of a batch whose meshes and joints are there."""

    def score(part: slice) -> np.ndarray:
        (own, target), (points, goal) = (
            [x[part] for x in pair]
            for pair in ([mesh.vertices for mesh in people.meshes], people.points)
        )
        own, target = own - points[:, ROOT], target - goal[:, ROOT]
        points, goal = points - points[:, ROOT], goal - goal[:, ROOT]
        points, goal = points[:, SCORED], goal[:, SCORED]
        aligned = batch_procrustes(points, goal)
        return np.stack([distances(points, goal), distances(aligned, goal), distances(own, target)])

    return score


def by_metrics(people: People) -> Callable[[slice], np.ndarray]:
    """The same by hmrkit."""
    (first, second), (points, goal) = people.meshes, people.points
    goal = torch.cat([goal, torch.ones_like(goal[..., :1])], dim=-1)

    def score(part: slice) -> np.ndarray:
        own, target = points[part], goal[part]
        shift = own[:, ROOT] - target[:, ROOT, :3]
        values = (
            metrics.mpjpe_mm(own, target, ROOT, SCORED),
            metrics.pa_mpjpe_mm(own, target, SCORED),
            metrics.pve_mm(first.vertices[part], second.vertices[part], shift),
        )
        return torch.stack(values).numpy()

    return score


def distances(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    """Mean distance (p,) of points (p, n, 3), mm."""
    return 1000 * torch.sqrt(((first - second) ** 2).sum(-1)).mean(-1).numpy()


def procrustes_error(points: np.ndarray, goal: np.ndarray) -> float:
    """Mean distance of one person's joints (K, 3) after the best similarity transform, mm."""
    own, other = points - points.mean(axis=0), goal - goal.mean(axis=0)
    u, s, vt = np.linalg.svd(own.T @ other)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    moved = (s * sign).sum() / (own**2).sum() * own @ ((u * sign) @ vt)
    return float(1000 * np.sqrt(((moved - other) ** 2).sum(-1)).mean())


def batch_procrustes(points: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Joints (p, K, 3) after the best similarity transforms."""
    center = goal.mean(dim=1, keepdim=True)
    own, other = points - points.mean(dim=1, keepdim=True), goal - center
    u, s, vt = torch.linalg.svd(own.transpose(1, 2) @ other)
    sign = torch.ones_like(s)
    sign[:, 2] = torch.sign(torch.linalg.det(u @ vt))
    scale = (s * sign).sum(-1) / own.square().sum(dim=(1, 2))
    return scale[:, None, None] * (own @ (u * sign[:, None]) @ vt) + center


def smplx_vertices(people: People, gender: int, part: slice) -> torch.Tensor:
    """A label's vertices (p, V, 3) by smplx, from axis-angle as in the files."""
    pose = people.pose[part].flatten(1)
    parts = {"global_orient": pose[:, :3], "body_pose": pose[:, 3:]}
    return people.smplx[gender](**parts, betas=people.betas[part]).vertices


def body_of(pose: torch.Tensor, betas: torch.Tensor) -> Body:
    """Bodies at the origin from axis-angle (P, 24, 3)."""
    turns = axis_angle_to_rotmat(pose)
    return Body(turns[:, 0], turns[:, 1:], betas, torch.zeros(len(pose), 3))


def rows_of(body: Body, part: slice) -> Body:
    """Some of the bodies."""
    return Body(*(value[part] for value in vars(body).values()))


def whole_mesh(body_model: SMPL, body: Body, parts: list[slice]) -> Mesh:
    """Meshes of all bodies."""
    meshes = [body_model(rows_of(body, part)) for part in parts]
    return Mesh(*(torch.cat([getattr(m, k) for m in meshes]) for k in ("vertices", "joints")))


if __name__ == "__main__":
    main()
