"""One shard of an official download: convert its records, write it, note what became of them.

This is what every worker process of ``prepare.py`` does. The note beside a finished shard, in the
hidden folder ``PREPARING``, is what says that it is finished.
"""

import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from hmrkit.data.index import ShardInfo, index_path
from hmrkit.data.manifest import PREPARING
from hmrkit.data.place import LocalPlace, RemotePlace
from hmrkit.data.precrop import Precrop
from hmrkit.data.record import BadImage, complete_sample, decode_image, encode_record
from hmrkit.data.shards import write_encoded_shard
from hmrkit.data.sources.official import Converter, Records, Skipped
from hmrkit.types import Sample

MAX_EXAMPLES = 5  # of skipped records, by reason
MAX_CHARACTERS = 300  # of an example
IMAGE_FORMATS = ("keep", "jpg", "png")


@dataclass(frozen=True)
class Pictures:
    """How images are stored.

    Attributes:
        image_format: ``keep`` (files unchanged, arrays as JPEG), ``jpg`` (PNG files too), ``png``
            (arrays as PNG, files unchanged). What is neither JPEG nor PNG counts as an array.
        quality: of the JPEGs that are made here.
        precrop: how to cut the views out, or None.
    """

    image_format: str
    quality: int
    precrop: Precrop | None

    def __post_init__(self) -> None:
        if self.image_format not in IMAGE_FORMATS:
            found = f"image_format={self.image_format!r}"
            raise ValueError(f"{found}: expected {', '.join(IMAGE_FORMATS)}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality!r}: expected 1 to 100")

    def convert(self, sample: Sample, skips: "Skips") -> list[tuple[Sample, dict[str, bytes]]]:
        """A complete sample, or one per view, as it will be stored, with its files."""
        if self.precrop is None:
            pieces = [{**sample, "images": [self._stored(image) for image in sample["images"]]}]
        else:
            pieces = self._views(sample, self.precrop, skips)
        stored_format = "png" if self.image_format == "png" else "jpg"
        return [(p, encode_record(p, stored_format, self.quality)) for p in pieces]

    def _views(self, sample: Sample, precrop: Precrop, skips: "Skips") -> list[Sample]:
        images = [decode_image(x) if isinstance(x, bytes) else x for x in sample["images"]]
        decoded: Sample = {**sample, "images": images}  # once, however many people there are
        pieces = []
        for view in range(len(sample["image_of_view"])):
            try:
                pieces.append(precrop(decoded, view))
            except Skipped as skipped:
                skips.add(skipped.reason, skipped.detail)
        if len(sample["image_of_view"]) == 0:
            skips.add("shows nobody", sample["key"])
        return pieces

    def _stored(self, image: Any) -> Any:
        """An image as it is to be stored: the bytes of a file, or an array."""
        if not isinstance(image, bytes):
            return image
        is_png = image.startswith(b"\x89PNG") and self.image_format != "jpg"
        is_kept = image.startswith(b"\xff\xd8") or is_png
        return image if is_kept else decode_image(image)


@dataclass
class Skips:
    """What was left out: ``{reason: {"count": int, "examples": [str]}}``, the first ones."""

    reasons: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_bad: int = 0  # of them, those that could not be converted
    traceback: str = ""  # of the first of these

    def add(self, reason: str, example: str) -> None:
        """Count one."""
        entry = self.reasons.setdefault(reason, {"count": 0, "examples": []})
        entry["count"] += 1
        if len(entry["examples"]) < MAX_EXAMPLES:
            entry["examples"].append(example[:MAX_CHARACTERS])

    def add_bad(self, error: Exception, where: str) -> None:
        """Count one that raised an error."""
        self.num_bad += 1
        is_image = isinstance(error, BadImage)
        if not (is_image or self.traceback):
            self.traceback = "".join(traceback.format_exception(error, limit=-3))
        reason = f"cannot be converted: {type(error).__name__}"
        self.add("image cannot be decoded" if is_image else reason, f"{where}: {error}")

    def merge(self, other: "Skips") -> None:
        """Add those of a later shard."""
        self.num_bad += other.num_bad
        self.traceback = self.traceback or other.traceback
        for reason, theirs in other.reasons.items():
            ours = self.reasons.setdefault(reason, {"count": 0, "examples": []})
            ours["count"] += theirs["count"]
            ours["examples"] = (ours["examples"] + theirs["examples"])[:MAX_EXAMPLES]

    def count(self) -> int:
        """How many were left out."""
        return sum(entry["count"] for entry in self.reasons.values())

    def table(self) -> str:
        """One line per reason, the most frequent first."""
        order = sorted(self.reasons.items(), key=lambda item: (-item[1]["count"], item[0]))
        return "\n".join(
            f"  {entry['count']:>8}  {reason}, such as {entry['examples'][0]}"
            for reason, entry in order
        )


@dataclass
class Outcome:
    """What became of the records of one shard."""

    shard: str
    num_input: int
    fingerprint: str  # of the options
    info: ShardInfo | None = None  # None: every record was skipped, there is no tar
    keys: list[str] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)  # of the input records that the keys are of
    skips: Skips = field(default_factory=Skips)
    problem: str = ""  # why the run must end; then nothing was written

    @property
    def note(self) -> str:
        """Name of the note."""
        return note_name(int(Path(self.shard).stem))

    def to_json(self) -> bytes:
        """The note of a finished shard."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(data: bytes) -> "Outcome | None":
        """Read a note; None if it is damaged."""
        try:
            content = json.loads(data)
            info = content.pop("info")
            skips = Skips(**content.pop("skips"))
            if len(content["keys"]) != len(content["indices"]):
                return None
            return Outcome(info=ShardInfo(**info) if info else None, skips=skips, **content)
        except (ValueError, KeyError, TypeError):
            return None

    def is_whole(self, fingerprint: str, sizes: dict[str, int]) -> bool:
        """Whether the shard is there, made with these options; ``sizes`` are those of its folder.

        A shard is uploaded before its index, and both before the note.
        """
        if self.fingerprint != fingerprint:
            return False
        if self.info is None:
            return self.shard not in sizes
        has_index = index_path(Path(self.shard)).name in sizes
        return has_index and sizes.get(self.shard) == self.info.num_bytes


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:06d}.tar"


def note_name(number: int) -> str:
    """Name of its note."""
    return f"{PREPARING}/{number:06d}.json"


def describe_record(records: Records, index: int) -> str:
    """What users know a record of the input by."""
    name = getattr(records, "name", None)
    return f"{index} ({name(index)})" if name is not None else str(index)


class _StopError(Exception):
    """The run must end, for a reason that users are told."""


@dataclass
class ShardMaker:
    """Makes shards of one download; travels to the worker processes, where it opens the download.

    Attributes:
        converter: of the download.
        input_folder: the download.
        place: where the shards go.
        source: name of the source.
        pictures: how images are stored.
        fingerprint: of all options.
        max_bad: number of records that may fail to convert.
        records: of the download, where it is open.
    """

    converter: Converter
    input_folder: Path
    place: LocalPlace | RemotePlace
    source: str
    pictures: Pictures
    fingerprint: str
    max_bad: int
    records: Records | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open download behind."""
        return {**self.__dict__, "records": None}

    def __call__(self, job: tuple[int, range], advance: Callable[[int], Any]) -> Outcome:
        """Make shard number ``job[0]`` of the records ``job[1]``; ``advance(1)`` per record."""
        number, indices = job
        name = shard_name(number)
        outcome = Outcome(name, len(indices), self.fingerprint)
        encoded = self._encoded(indices, outcome, advance)
        joint_set = self.converter.joint_set
        try:
            first = next(encoded, None)
            if first is None:
                self.place.remove([name, index_path(Path(name)).name])
            else:
                outcome.info = self.place.add_shard(
                    name, lambda path: write_encoded_shard(path, chain([first], encoded), joint_set)
                )
        except _StopError as stop:
            outcome.problem = str(stop)
            return outcome
        self.place.write(note_name(number), outcome.to_json())
        return outcome

    def _encoded(
        self, indices: range, outcome: Outcome, advance: Callable[[int], Any]
    ) -> Iterator[tuple[Sample, dict[str, bytes]]]:
        """The records of a shard that can be kept, complete, with their files."""
        if self.records is None:
            self.records = self.converter.open(self.input_folder)
        skips, joint_set = outcome.skips, self.converter.joint_set
        seen: dict[str, int] = {}
        for index in indices:
            try:
                sample = complete_sample(self.records[index], joint_set, self.source)
                converted = self.pictures.convert(sample, skips)
                for person in getattr(self.records, "left_out", ()):
                    skips.add(person.reason, person.detail)
            except Skipped as skipped:
                skips.add(skipped.reason, skipped.detail or f"record {index}")
                converted = []
            except Exception as error:  # whatever a damaged annotation makes a converter raise
                skips.add_bad(error, f"record {index}")
                converted = []
            if skips.num_bad > self.max_bad:
                raise _StopError("too many records cannot be converted")
            for sample, files in converted:
                key = sample["key"]
                if key in seen:
                    both = [describe_record(self.records, one) for one in (seen[key], index)]
                    raise _StopError(
                        f"record {key!r} occurs twice in {outcome.shard}, made from records "
                        f"{' and '.join(both)} of the input"
                    )
                seen[key] = index
                outcome.keys.append(key)
                outcome.indices.append(index)
                yield sample, files
            advance(1)
