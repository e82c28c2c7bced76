"""What the tars of 4D-Humans and TokenHMR have in common: one image with its people per key."""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body.pickles import load_pickle
from hmrkit.data.in_place import TarConverter
from hmrkit.data.record import BadRecord
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.official import Skipped, center_size_to_box, expect, record_key
from hmrkit.data.tar_index import Whole
from hmrkit.types import Sample

LABELS = "data.pyd"  # a pickled list of dicts, one per person
IMAGES = ("jpg", "jpeg", "png")
PX_PER_SCALE = 200.0


def find_tars(folder: Path, patterns: Sequence[str], leave_out: Sequence[str], where: str) -> list:
    """The tars below a folder that match any pattern and have none of the words in their path."""
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    if not found:
        expect(folder, patterns[0], where)  # raises
    kept = [p for p in found if not any(w in p.relative_to(folder).as_posix() for w in leave_out)]
    if not kept:
        raise FileNotFoundError(f"{folder}: all {len(found)} tars are left out by {leave_out}")
    return sorted(kept)


def options_signature(converter: Any, without: Sequence[str], **more: Any) -> str:
    """The options of a converter, a dataclass, as text; ``more`` says what else plays a part."""
    options = dataclasses.asdict(converter)
    kept = {name: value for name, value in options.items() if name not in without}
    return json.dumps({"format": type(converter).__name__, **kept, **more}, sort_keys=True)


def read_people(members: Mapping[str, bytes], key: str) -> list[Mapping[str, Any]]:
    """The dicts of a record's people; nothing in the pickle is run.

    Raises:
        BadRecord: if the image or the labels are missing, or cannot be read.
    """
    files = {extension.lower(): content for extension, content in members.items()}
    if LABELS not in files or not any(extension in files for extension in IMAGES):
        raise BadRecord("", key, f"needs an image and {LABELS}, has {sorted(members)}", "missing")
    try:
        people = load_pickle(io.BytesIO(files[LABELS]), Path(f"{key}.{LABELS}"))
    except ValueError as error:
        raise BadRecord("", key, str(error), "labels") from error
    if not isinstance(people, list) or not all(isinstance(one, dict) for one in people):
        kind = f"list of {type(people[0]).__name__}" if isinstance(people, list) else type(people)
        raise BadRecord("", key, f"{LABELS} holds {kind}, not a list of dicts", "labels")
    return people


def image_of(members: Mapping[str, bytes]) -> bytes:
    """The image file of a record that ``read_people`` accepted."""
    files = {extension.lower(): content for extension, content in members.items()}
    return next(files[extension] for extension in IMAGES if extension in files)


def stacked(people: Sequence[Mapping[str, Any]], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A field of all people, (P, *shape) float32.

    Raises:
        ValueError: naming the field, if it is missing or does not have the shape.
    """
    rows = []
    for one in people:
        if name not in one:
            raise ValueError(f"a person has no {name!r}, only {sorted(map(str, one))}")
        rows.append(np.asarray(one[name], np.float32))
        if rows[-1].shape != shape:
            raise ValueError(f"{name} has shape {rows[-1].shape}, not {shape}")
    return np.stack(rows) if rows else np.zeros((0, *shape), np.float32)


def boxes_of(people: Sequence[Mapping[str, Any]], stored_margin: float) -> np.ndarray:
    """Tight boxes (P, 4) of ``center``, px, and ``scale``, width and height (or side) / 200 px."""
    center = stacked(people, "center", (2,))
    scale = np.stack([np.broadcast_to(np.asarray(p["scale"], np.float32), 2) for p in people])
    return center_size_to_box(center, scale * PX_PER_SCALE, stored_margin)


class TarRecords:
    """The records of tars in their order, as a converter makes them.

    Args:
        folder: that the tars are below; a record's key begins with its tar's name in it.
        tars: to read.
        converter: of their format.

    Attributes:
        left_out: the people that the record made last lacks.
    """

    def __init__(self, folder: Path, tars: Sequence[Path], converter: TarConverter) -> None:
        self._shards = ShardSet(tars, converter=Whole(converter))
        self._tars = [tar.relative_to(folder).with_suffix("").as_posix() for tar in tars]
        self._converter = converter
        self.left_out: list[Skipped] = []

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Sample:
        """Make one record.

        Raises:
            Skipped: if nobody is left in it.
            BadRecord: if it is damaged.
        """
        self.left_out = []
        key = self._shards.key(index)
        tar = self._tars[self._shards.locate(index)[0]]
        members = self._shards.read_files(index)
        try:
            sample = self._converter.decode(members, key)
            left_out = self._converter.count(members, key).left_out.items()
        except BadRecord as bad:
            raise BadRecord(f"{tar}.tar", key, bad.reason, bad.kind) from bad
        except Skipped as skipped:
            raise Skipped(skipped.reason, f"{tar}.tar: {key}") from skipped
        self.left_out = [
            Skipped(f"somebody on a photo: {reason}", f"{tar}.tar: {key}")
            for reason, number in left_out
            for _ in range(number)
        ]
        return {**sample, "key": record_key(f"{tar}-{key}.")}
