"""The training tars of 4D-Humans (HMR2.0), which TokenHMR trains on too -> records.

A key of a tar is an image (``.jpg``, ``.jpeg``, ``.png``; whole frames) and ``.data.pyd``, a
pickled list of one dict per person. All of them that the options leave become one record, joint set
``spin44``. Read: ``center`` (2,) px and ``scale`` (2,) width and height / 200 px; ``keypoints_2d``
(44, 3) px + confidence; ``keypoints_3d`` (44, 4) metres + confidence, camera axes, any origin;
``body_pose`` (72,) axis-angle with the root in camera axes; ``betas`` (10,) of the neutral body;
``has_body_pose``, ``has_betas``; ``extra_info`` with the loss of the fit, if it was fitted. The
masks of ``.detection.npz`` are not carried.

Stored numbers stay beside a flag that says they are no labels (TokenHMR's loss pulls some towards
them nevertheless); where the file stores zeros for "none" they become NaN.
"""

import dataclasses
import logging
import multiprocessing
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.data.in_place import Counted
from hmrkit.data.record import complete_sample, labels_present
from hmrkit.data.sources.official import Skipped, absent_to_nan, record_key
from hmrkit.data.sources.pose_histogram import is_probable
from hmrkit.data.sources.tars import (
    LABELS,
    TarRecords,
    boxes_of,
    find_tars,
    image_of,
    options_signature,
    read_people,
    stacked,
)
from hmrkit.types import Sample

log = logging.getLogger(__name__)

_WHERE = (
    "The training tars of 4D-Humans lie in folders such as h36m-train/ and "
    "coco-train-2014-pruned/; give the folder that holds these."
)


@dataclasses.dataclass(frozen=True)
class FourDHumansTars:
    """Converter, and hook for the use in place, of 4D-Humans' tars; the defaults filter nothing.

    Args:
        tars: glob patterns below the folder.
        leave_out: words; a tar with one of them in its path is not read.
        exclude_keys: keys of images to leave out.
        stored_margin: margin that the stored boxes have around tight ones.
        suppress_keypoint_confidence: 2D keypoints of a lower confidence count as absent.
        suppress_betas: a shape with a coefficient beyond +- this is no label. None: any is.
        pose_histogram: path of amass_poses_hist100_SMPL+H_G.npy, by which an improbable pose is no
            label (``pose_histogram.py``). None: any is.
        poses_betas_simultaneous: pose and shape are labels together or not at all.
        min_keypoints: people with fewer 2D keypoints are left out.
        max_reprojection_loss: people whose fit has this loss or a higher one are left out; those
            without a fit stay. None: all stay.
        betas_regulariser: shapes that are no labels become labels of zeros.
        index_folder: for the indices of tars in folders that cannot be written.
    """

    tars: Sequence[str]
    leave_out: Sequence[str] = ()
    exclude_keys: Sequence[str] = ()
    stored_margin: float = 1.0
    suppress_keypoint_confidence: float = 0.0
    suppress_betas: float | None = None
    pose_histogram: str | None = None
    poses_betas_simultaneous: bool = False
    min_keypoints: int = 0
    max_reprojection_loss: float | None = None
    betas_regulariser: bool = False
    index_folder: str | None = None

    kind = "scenes"
    joint_set = "spin44"
    label_files = (LABELS,)

    def find(self, folder: Path) -> list[Path]:
        """The tars of a download."""
        return find_tars(folder, self.tars, self.leave_out, _WHERE)

    def open(self, folder: Path) -> TarRecords:
        """The records of a download; the first time, its tars are read once and indexed."""
        self.announce()
        return TarRecords(folder, self.find(folder), self)

    def announce(self) -> None:
        """Warn that poses are not filtered, or read the histogram: forked workers then share it.

        Raises:
            FileNotFoundError: if it is missing.
            ValueError: if it is another file.
        """
        if self.pose_histogram is not None:
            is_probable(np.zeros((0, 24, 3)), self.pose_histogram)
        elif multiprocessing.parent_process() is None:
            log.warning(
                "pose_histogram is not set: improbable fitted poses of %s stay labels, unlike in "
                "HMR2.0 and TokenHMR; set it to the path of amass_poses_hist100_SMPL+H_G.npy",
                ", ".join(self.tars),
            )

    def signature(self) -> str:
        """What decides who is left and with which labels, as text."""
        path = self.pose_histogram
        histogram = [Path(path).name, Path(path).stat().st_size] if path is not None else None
        without = ("tars", "leave_out", "index_folder", "pose_histogram")
        return options_signature(self, without, histogram=histogram)

    def count(self, members: Mapping[str, bytes], key: str) -> Counted:
        """See ``TarConverter``."""
        people, left_out = self._people(members, key)
        if not people:
            return Counted(0, {}, left_out)
        sample = complete_sample(self._sample(people, key, b""), self.joint_set)
        return Counted(len(people), labels_present(sample), left_out)

    def decode(self, members: Mapping[str, bytes], key: str) -> Sample:
        """See ``TarConverter``."""
        people, left_out = self._people(members, key)
        if not people:
            reasons = ", ".join(sorted(left_out)) or "nobody is labelled"
            raise Skipped(f"nobody is left: {reasons}", key)
        return self._sample(people, key, image_of(members))

    def _people(
        self, members: Mapping[str, bytes], key: str
    ) -> tuple[list[Mapping[str, Any]], Counter[str]]:
        """Those whom the options leave, and why not the others."""
        if key in self.exclude_keys:
            raise Skipped("excluded by exclude_keys", key)
        left_out: Counter[str] = Counter()
        kept = []
        for one in read_people(members, key):
            confidence = stacked([one], "keypoints_2d", (44, 3))[0, :, 2]
            is_seen = (confidence > 0) & (confidence >= self.suppress_keypoint_confidence)
            if is_seen.sum() < self.min_keypoints:
                left_out["too few keypoints"] += 1
            elif self._is_badly_fitted(one):
                left_out["the reprojection loss is too high"] += 1
            elif not (np.asarray(one["scale"], np.float32) > 0).all():
                left_out["the box is empty"] += 1
            else:
                kept.append(one)
        return kept, left_out

    def _is_badly_fitted(self, one: Mapping[str, Any]) -> bool:
        fit = (one.get("extra_info") or {}).get("fitting_loss")
        if fit is None or self.max_reprojection_loss is None:
            return False
        values = np.asarray(fit, dtype=object).item()  # the file has a dict in an array
        loss = values.get("reprojection_loss") if isinstance(values, dict) else None
        return loss is not None and float(np.asarray(loss)) >= self.max_reprojection_loss

    def _sample(self, people: Sequence[Mapping[str, Any]], key: str, image: bytes) -> Sample:
        num = len(people)
        keypoints_2d = stacked(people, "keypoints_2d", (44, 3))
        is_doubtful = keypoints_2d[..., 2] < self.suppress_keypoint_confidence
        keypoints_2d[is_doubtful, 2] = 0
        return {
            "key": record_key(f"{key}."),
            "images": [image],
            "image_of_view": np.zeros(num, np.int64),
            "person_of_view": np.arange(num),
            "box_img": boxes_of(people, self.stored_margin),
            "keypoints_img": absent_to_nan(keypoints_2d),
            "keypoints_world": absent_to_nan(stacked(people, "keypoints_3d", (44, 4))),
            **self._body(people),  # type: ignore[typeddict-item]
        }

    def _body(self, people: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """Pose and shape with their flags, after the filters in the order of 4D-Humans."""
        pose = stacked(people, "body_pose", (72,)).reshape(-1, 24, 3)
        betas = stacked(people, "betas", (10,))
        has_pose = stacked(people, "has_body_pose", ()) > 0
        has_betas = stacked(people, "has_betas", ()) > 0
        if self.suppress_betas is not None:
            has_betas &= ~(np.abs(betas) > self.suppress_betas).any(axis=1)
        if self.pose_histogram is not None:
            has_pose &= is_probable(pose, self.pose_histogram)
        if self.poses_betas_simultaneous:
            has_pose = has_betas = has_pose & has_betas
        if self.betas_regulariser:
            betas = np.where(has_betas[:, None], betas, np.float32(0))
            has_betas = np.ones_like(has_betas)
        pose[~has_pose & ~pose.any(axis=(1, 2))] = np.nan
        betas[~has_betas & ~betas.any(axis=1)] = np.nan
        return {"pose": pose, "betas": betas, "has_pose": has_pose, "has_betas": has_betas}
