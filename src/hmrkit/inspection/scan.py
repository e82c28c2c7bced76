"""One pass over the labels of a set, shared among processes; images are not decoded for it."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import simplejpeg

from hmrkit.data.in_place import decode_in_place
from hmrkit.data.record import BadRecord, decode_record, labels_present
from hmrkit.data.shards import ShardSet
from hmrkit.data.workers import count_workers, do_jobs, progress_bar
from hmrkit.inspection.agreement_checks import AGREEMENT_CHECKS
from hmrkit.inspection.body_checks import BODY_CHECKS
from hmrkit.inspection.checks import Tally, run_checks
from hmrkit.inspection.image_checks import IMAGE_CHECKS
from hmrkit.inspection.labels import Labels, stack_labels
from hmrkit.inspection.skeleton import Skeleton
from hmrkit.inspection.statistics import MAX_ROWS, Statistics, measure
from hmrkit.types import Sample

CHECKS = (*IMAGE_CHECKS, *BODY_CHECKS, *AGREEMENT_CHECKS)
_ROWS_AT_ONCE = 2048  # views or people of a bundle of records
_RECORDS_PER_JOB = 1000
_WORTH_A_PROCESS = (20_000, 1 << 30)  # views or people, and bytes: starting one takes seconds
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Range:
    """The lowest and highest values of a label, to find one that never changes."""

    num_records: int
    low: np.ndarray
    high: np.ndarray

    def add(self, other: "Range") -> None:
        """Take in another part of the set."""
        self.num_records += other.num_records
        self.low, self.high = np.fmin(self.low, other.low), np.fmax(self.high, other.high)

    @property
    def is_constant(self) -> bool:
        """Every number that occurs is always the same."""
        is_known = np.isfinite(self.low)
        return bool(is_known.any() and (self.low == self.high)[is_known].all())


@dataclass
class Scan:
    """What was found in a part of a set; ``add`` puts parts together."""

    statistics: Statistics = field(default_factory=Statistics)
    tallies: dict[str, Tally] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    bad: list[tuple[int, str, str]] = field(default_factory=list)  # record, key, reason

    def add(self, other: "Scan") -> None:
        """Take in the next part."""
        self.statistics.add(other.statistics)
        self.bad += other.bad
        for mine, others in ((self.tallies, other.tallies), (self.ranges, other.ranges)):
            for name, one in others.items():
                if name in mine:
                    mine[name].add(one)
                else:
                    mine[name] = one


class _Plan(NamedTuple):
    """What a worker needs to know."""

    shards: ShardSet
    skeleton: Skeleton
    kind: str | None
    is_precropped: bool
    stride: int
    with_pixels: bool


def scan_set(
    shards: ShardSet,
    skeleton: Skeleton,
    numbers: Sequence[int],
    workers: int | str | None,
    with_pixels: bool,
) -> Scan:
    """Look at the labels of some records of a set.

    Args:
        shards: the set.
        skeleton: of the body that poses are looked at with.
        numbers: of the records, ascending.
        workers: number of processes; None or "auto" for one per core. Small sets use fewer.
        with_pixels: decode every image too; one that is damaged makes its record unreadable.
    """
    manifest = shards.manifest
    rows = max(manifest["num_views"], manifest["num_people"]) * len(numbers) // len(shards)
    plan = _Plan(
        shards,
        skeleton,
        manifest.get("kind"),
        manifest.get("options", {}).get("precrop") is not None,
        stride=1 + rows // MAX_ROWS,
        with_pixels=with_pixels,
    )
    most = 1 + rows // _WORTH_A_PROCESS[0] + manifest["num_bytes"] // _WORTH_A_PROCESS[1]
    num_workers = min(count_workers(workers), most)
    blocks = [numbers[i : i + _RECORDS_PER_JOB] for i in range(0, len(numbers), _RECORDS_PER_JOB)]
    parts: dict[int, Scan] = {}

    def collect(part: tuple[int, Scan]) -> None:
        parts.update([part])

    with progress_bar(len(numbers), 0, " records", "labels") as bar:
        do_jobs(partial(_scan_job, plan), list(enumerate(blocks)), num_workers, bar, collect)
    whole = Scan()
    for _, part in sorted(parts.items()):
        whole.add(part)
    return whole


def _scan_job(
    plan: _Plan, job: tuple[int, Sequence[int]], advance: Callable[[int], None]
) -> tuple[int, Scan]:
    number, records = job
    found, waiting, rows = Scan(), {}, 0
    for record in records:
        try:
            waiting[record] = sample = read_labels(plan.shards, record, plan.with_pixels)
            rows += max(len(sample["has_pose"]), len(sample["image_of_view"]))
        except BadRecord as bad:
            found.bad.append((record, bad.key, f"{bad.kind}: {bad.reason}"))
        if rows >= _ROWS_AT_ONCE:
            found.add(_look(plan, waiting))
            waiting, rows = {}, 0
        advance(1)
    if waiting:
        found.add(_look(plan, waiting))
    return number, found


def _look(plan: _Plan, samples: dict[int, Sample]) -> Scan:
    labels = stack_labels(
        list(samples.values()), list(samples), plan.skeleton, plan.kind, plan.is_precropped
    )
    statistics = measure(labels, plan.stride)
    for sample in samples.values():
        statistics.coverage.update(labels_present(sample))
    return Scan(statistics, run_checks(labels, CHECKS), _ranges(labels))


def _ranges(labels: Labels) -> dict[str, Range]:
    masked_img = np.where(labels.has_keypoint_img[..., None], labels.keypoints_img[..., :2], np.nan)
    masked_world = np.where(
        labels.has_keypoint_world[..., None], labels.keypoints_world[..., :3], np.nan
    )
    of_views, of_people = labels.record_of_view, labels.record_of_person
    values = {
        "box_img": (of_views, labels.box_img),
        "keypoints_img": (of_views, masked_img),
        "keypoints_world": (of_people, masked_world),
        "pose": (of_people, np.where(labels.has_pose[:, None, None], labels.pose, np.nan)),
        "betas": (of_people, np.where(labels.has_betas[:, None], labels.betas, np.nan)),
        "transl": (of_people, labels.transl),
    }
    ranges = {}
    for name, (records, array) in values.items():
        has = np.isfinite(array.reshape(len(array), np.prod(array.shape[1:], dtype=int))).any(1)
        low = np.fmin.reduce(array, axis=0, initial=np.inf)
        high = np.fmax.reduce(array, axis=0, initial=-np.inf)
        ranges[name] = Range(len(np.unique(records[has])), low, high)
    return ranges


def read_labels(shards: ShardSet, record: int, with_pixels: bool = False) -> Sample:
    """Read one record whose images are blank, without memory of their own, but of the right size.

    Args:
        shards: the set.
        record: its number.
        with_pixels: decode the images, for proof.

    Raises:
        BadRecord: if anything is wrong with it.
    """
    if with_pixels:
        sample = shards.read(record)
        return {**sample, "images": [_blank(image.shape[:2]) for image in sample["images"]]}
    members, key = shards.read_files(record), shards.key(record)
    try:
        if shards.converter is None:
            return decode_record(members, _blank_images)
        return decode_in_place(shards.converter, members, key, _blank_images)
    except BadRecord as bad:
        raise BadRecord(bad.shard, key, bad.reason, bad.kind) from bad


def _blank_images(files: Sequence[bytes], key: str) -> list[np.ndarray]:
    try:
        return [_blank(_size_hw(file)) for file in files]
    except ValueError as error:
        raise BadRecord("", key, f"image cannot be decoded: {error}", "image") from error


def _blank(size_hw: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.zeros((), np.uint8), (*size_hw, 3))


def _size_hw(file: bytes) -> tuple[int, int]:
    """Height and width of an image file, of which the head is read."""
    if not file.startswith(_PNG):
        return simplejpeg.decode_jpeg_header(file)[:2]
    if len(file) < 24:
        raise ValueError("the file ends inside its head")
    width, height = struct.unpack(">II", file[16:24])
    return height, width
