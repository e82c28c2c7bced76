"""What a set holds, in numbers: counts, label coverage, distributions."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hmrkit.body import joints
from hmrkit.inspection.labels import Labels

MAX_ROWS = 400_000  # of a distribution; of larger sets every n-th view or person is kept
BODY_JOINTS = joints.names("smpl24")[1:]


class Column(NamedTuple):
    """One distribution."""

    title: str
    unit: str


COLUMNS = {
    "box_side_px": Column("Longer side of the box", "px"),
    "box_share": Column("Longer side of the box over that of the image", ""),
    "keypoints_per_view": Column("Labelled 2D joints per view", ""),
    "depth_m": Column("Depth of the pelvis", "m"),
    "yaw_deg": Column("View direction: 0 faces the camera, 90 faces the right", "degrees"),
    "elevation_deg": Column("Camera above (+) or below the person's horizon", "degrees"),
    "visible_fraction": Column("Visible fraction", ""),
    "fov_deg": Column("Field of view, longer side", "degrees"),
    "reprojection_percent": Column("3D joints off the 2D ones, share of the box", "%"),
    "pose_deg": Column("Mean angle of the body joints from the mean pose", "degrees"),
    "shape_norm": Column("Length of betas", ""),
    "height_m": Column("Span of the 3D joints", "m"),
    "image_side_px": Column("Longer side of the image", "px"),
    "people_per_image": Column("People per image", ""),
    "views_per_record": Column("Views per record", ""),
    "people_per_record": Column("People, or frames, per record", ""),
}
# What each label is counted over.
OF_VIEWS = ("keypoints_img", "visible_fraction", "intrinsics_of_view", "camera")
OF_IMAGES = ("intrinsics",)


@dataclass
class Statistics:
    """Sums over a part of a set; parts are put together with ``add``."""

    counts: Counter[str] = field(default_factory=Counter)  # records, images, views, people
    coverage: Counter[str] = field(default_factory=Counter)  # label -> how many carry it
    joints_img: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (K,) views
    joints_world: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # (K,) people
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height) -> images
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, other: "Statistics") -> None:
        """Take in the next part."""
        for mine, more in (
            (self.counts, other.counts),
            (self.coverage, other.coverage),
            (self.sizes, other.sizes),
        ):
            mine.update(more)  # += would drop what is 0
        for name in ("joints_img", "joints_world"):
            mine, more = getattr(self, name), getattr(other, name)
            setattr(self, name, mine + more if len(mine) else more)
        for name, parts in other.columns.items():
            self.columns.setdefault(name, []).extend(parts)

    def values(self, name: str) -> np.ndarray:
        """The kept values of a distribution; (N,), of joint angles and betas (N, n)."""
        parts = self.columns.get(name)
        return np.concatenate(parts) if parts else np.zeros(0)


def measure(labels: Labels, stride: int) -> Statistics:
    """The statistics of some records, but for the labels that the manifest counts.

    Args:
        labels: the records.
        stride: every so many-th view, person and image goes into the distributions.
    """
    found = Statistics()
    found.counts.update(
        records=len(labels.keys),
        images=len(labels.size_wh),
        views=len(labels.box_img),
        people=len(labels.pose),
        self_intersecting=int(labels.is_self_intersecting.sum()),
    )
    camera = np.isfinite(labels.intrinsics_of_view).all(axis=(1, 2))  # its own or its image's
    found.coverage.update(camera=int(camera.sum()))
    found.joints_img = labels.has_keypoint_img.sum(axis=0)
    found.joints_world = labels.has_keypoint_world.sum(axis=0)
    found.sizes.update(map(tuple, labels.size_wh.astype(int).tolist()))
    with np.errstate(all="ignore"):
        columns = {**_of_views(labels), **_of_people(labels), **_of_images(labels)}
        found.columns = {k: [v[::stride].astype(np.float32)] for k, v in columns.items()}
    num = len(labels.keys)
    for name, rows in (("views", labels.record_of_view), ("people", labels.record_of_person)):
        if len(rows):
            found.columns[f"{name}_per_record"] = [np.bincount(rows, minlength=num)]
    return found


def _of_views(labels: Labels) -> dict[str, np.ndarray]:
    ahead, up = (labels.turn(axis) for axis in labels.facing)
    matrix, side = labels.intrinsics_of_view, labels.size_of_view.max(axis=1, initial=0)
    # Where the camera's centre is, as the body sees it, says from how high it looks.
    to_camera = np.where(np.isfinite(labels.pelvis_cam), -labels.pelvis_cam, [0.0, 0.0, -1.0])
    to_camera /= np.linalg.norm(to_camera, axis=1, keepdims=True)
    return {
        "box_side_px": labels.box_side,
        "box_share": labels.box_side / side,
        "keypoints_per_view": labels.num_keypoints_img,
        "depth_m": labels.pelvis_cam[:, 2],
        "yaw_deg": np.degrees(np.arctan2(ahead[:, 0], -ahead[:, 2])),
        "elevation_deg": np.degrees(np.arcsin((up * to_camera).sum(axis=1).clip(-1, 1))),
        "visible_fraction": labels.visible_fraction,
        "fov_deg": 2 * np.degrees(np.arctan(side / 2 / matrix[:, 0, 0])),
        "reprojection_percent": 100 * labels.reprojection,
    }


def _of_people(labels: Labels) -> dict[str, np.ndarray]:
    # The angle of a rotation from the mean pose's, by the trace of their quotient.
    trace = np.einsum("pjab,jab->pj", labels.rotations, labels.skeleton.mean_pose)
    angles = np.degrees(np.arccos(((trace - 1) / 2).clip(-1, 1)))[:, 1:]
    betas = np.where(labels.has_betas[:, None], labels.betas, np.nan)
    low, high = labels.extent_world
    return {
        "pose_deg": angles.mean(axis=1),
        "joint_deg": angles,
        "betas": betas,
        "shape_norm": np.linalg.norm(betas, axis=1),
        "height_m": (high - low).max(axis=1, initial=-np.inf),
    }


def _of_images(labels: Labels) -> dict[str, np.ndarray]:
    num = len(labels.size_wh)
    return {
        "image_side_px": labels.size_wh.max(axis=1, initial=0),
        "people_per_image": np.bincount(labels.image_of_view, minlength=num),
    }


def summarise(values: np.ndarray) -> dict[str, float | int] | None:
    """Count, mean, spread and percentiles of what is finite; None if nothing is."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    low, p5, median, p95, high = np.percentile(values, [0, 5, 50, 95, 100]).tolist()
    return {
        "count": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "min": low,
        "p5": p5,
        "median": median,
        "p95": p95,
        "max": high,
    }


def short(value: float) -> str:
    """A number with three digits; what is next to nothing is 0."""
    if abs(value) < 5e-4:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plain_statistics(found: Statistics, joint_set: str) -> dict[str, Any]:
    """Everything as plain values, for ``inspect.json``."""
    counts = found.counts
    columns = {name: summarise(found.values(name)) for name in COLUMNS}
    per_joint = np.moveaxis(found.values("joint_deg").reshape(-1, len(BODY_JOINTS)), 1, 0)
    per_beta = np.moveaxis(found.values("betas").reshape(-1, 10), 1, 0)
    names = joints.names(joint_set)
    nothing = np.zeros(len(names), int)  # where no record could be read
    seen = [n if len(n) else nothing for n in (found.joints_img, found.joints_world)]
    return {
        "counts": {name: counts[name] for name in ("records", "images", "views", "people")},
        "num_self_intersecting": counts["self_intersecting"],
        "labels": {
            name: {"count": number, "of": label_level(name), "share": share(found, name)}
            for name, number in found.coverage.items()
        },
        "joints": {
            name: {"views": int(in_image), "people": int(in_world)}
            for name, in_image, in_world in zip(names, *seen, strict=True)
        },
        "image_sizes": [
            {"width": w, "height": h, "count": n} for (w, h), n in found.sizes.most_common(10)
        ],
        "distributions": {name: column for name, column in columns.items() if column},
        "pose_deg": {n: summarise(v) for n, v in zip(BODY_JOINTS, per_joint, strict=True)},
        "betas": [summarise(values) for values in per_beta],
    }


def label_level(label: str) -> str:
    """What a label belongs to: views, images or people."""
    return "views" if label in OF_VIEWS else "images" if label in OF_IMAGES else "people"


def share(found: Statistics, label: str) -> float | None:
    """Which share of the views, images or people carries a label; None if there are none."""
    total = found.counts[label_level(label)]
    return found.coverage[label] / total if total else None
