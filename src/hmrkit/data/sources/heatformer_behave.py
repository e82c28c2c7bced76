"""HeatFormer's database of BEHAVE: rigs of four cameras, keypoints without bodies.

``BEHAVE_valid_db.pt`` is a joblib file, a list of dicts: ``img_name``, the folder of
``k0.color.jpg`` ...; ``R`` (4, 3, 3), ``t`` (4, 3) m, ``K`` (4, 3, 3) px; ``w_3d_openpose``
(25, 4), m in the world and confidence. The box is a square around the projected joints.
"""

from collections.abc import Sequence
from pathlib import Path

from hmrkit.data.sources import rigs
from hmrkit.data.sources.heatformer import WHERE
from hmrkit.data.sources.official import (
    absent_to_nan,
    center_size_to_box,
    expect,
    image_path,
    read_image,
    record_key,
)
from hmrkit.data.sources.pickles import read_joblib
from hmrkit.data.sources.rigs import Camera, Entry, Moment, RigRecords
from hmrkit.types import Sample


class HeatFormerBehave:
    """BEHAVE.

    Args:
        annotations: the database, below the input.
        use_views: cameras, 0 to 3.
    """

    kind = "rigs"
    joint_set = "openpose25"

    def __init__(
        self,
        annotations: str = "data/preprocessed_data/BEHAVE_valid_db.pt",
        use_views: Sequence[int] = (0, 1, 2, 3),
    ) -> None:
        self.annotations, self.use_views = annotations, tuple(use_views)

    def open(self, folder: Path) -> RigRecords:
        """List the records.

        Raises:
            FileNotFoundError, ValueError: if the folder is not HeatFormer's root.
        """
        rows = read_joblib(*expect(folder, self.annotations, WHERE))
        needed = {"img_name", "R", "t", "K", "w_3d_openpose"}
        if not isinstance(rows, list) or not all(needed <= set(row) for row in rows):
            raise ValueError(f"{self.annotations} is no list of dicts with {sorted(needed)}")

        def make(moment: Moment, cameras: Sequence[int]) -> Sample:
            row = rows[moment[0]]
            sample = rigs.rig_sample(
                record_key(row["img_name"].replace(".", "-")),
                [
                    read_image(image_path(folder, f"{row['img_name']}/k{i}.color.jpg"))
                    for i in cameras
                ],
                [Camera(row["K"][i], row["R"][i], row["t"][i]) for i in cameras],
                absent_to_nan(row["w_3d_openpose"]),
            )
            low, high = sample["box_img"][:, :2], sample["box_img"][:, 2:]
            square = center_size_to_box((low + high) / 2, (high - low).max(axis=1), 1.0)
            return {**sample, "box_img": square}

        entries = [Entry((i,), self.use_views) for i in range(len(rows))]
        return RigRecords(entries, make, self.kind, self.joint_set)
