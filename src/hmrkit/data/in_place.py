"""Tars of another format, read record by record as they are: what a converter of them offers.

Their records are found by indices of our own (``tar_index.py``).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from hmrkit.data.record import BadRecord, check_sample, complete_sample, decode_images
from hmrkit.data.sources.official import Skipped
from hmrkit.types import Sample


class Counted(NamedTuple):
    """What a converter finds in a record: people, of them with each label, and those left out."""

    num_people: int
    labels: Mapping[str, int]
    left_out: Mapping[str, int]


class TarConverter(Protocol):
    """A converter whose download is webdataset tars, one image with its people per key."""

    kind: str
    joint_set: str
    label_files: Sequence[str]  # extensions of the files that ``count`` reads
    index_folder: str | None  # for indices of tars in folders that cannot be written

    def find(self, folder: Path) -> list[Path]:
        """List the tars of a download, sorted; raises if there are none."""
        ...

    def announce(self) -> None:
        """Say what a user should know of the options, and raise if a file they name is missing."""
        ...

    def signature(self) -> str:
        """Return what changes when ``count`` would, on the same tar."""
        ...

    def count(self, members: Mapping[str, bytes], key: str) -> Counted:
        """Count the people of a record.

        Args:
            members: ``{extension: content}`` of its files, empty but for ``label_files``.
            key: of the record, as the tar has it.

        Raises:
            Skipped: if the options leave the whole record out.
            BadRecord: if its labels cannot be used.
        """
        ...

    def decode(self, members: Mapping[str, bytes], key: str) -> Sample:
        """Make the record as a partial sample; raises like ``count``, which counts the same."""
        ...


def decode_in_place(
    converter: TarConverter,
    members: Mapping[str, bytes],
    key: str,
    read_images: Callable[[list[bytes], str], Sequence[np.ndarray]] | None = None,
) -> Sample:
    """Make the complete, checked sample of a record, as ``record.decode_record`` does for ours.

    Raises:
        BadRecord: with an empty shard; the reader fills it in.
    """
    try:
        sample = complete_sample(converter.decode(members, key), converter.joint_set)
        check_sample(sample)
    except Skipped as skipped:
        raise BadRecord("", key, skipped.reason, "labels") from skipped
    except BadRecord:
        raise
    except Exception as error:  # whatever damaged labels make a converter raise
        raise _unusable(key, error) from error
    if all(isinstance(image, bytes) for image in sample["images"]):
        return {**sample, "images": (read_images or decode_images)(sample["images"], key)}
    return sample


def count_in_place(converter: TarConverter, members: Mapping[str, bytes], key: str) -> Counted:
    """Count the people of a record, 0 where nobody is left.

    Raises:
        BadRecord: with an empty shard.
    """
    try:
        return converter.count(members, key)
    except Skipped as skipped:
        return Counted(0, {}, {skipped.reason: 1})
    except BadRecord:
        raise
    except Exception as error:  # whatever damaged labels make a converter raise
        raise _unusable(key, error) from error


def _unusable(key: str, error: Exception) -> BadRecord:
    reason = f"labels cannot be used: {type(error).__name__}: {error}"
    return BadRecord("", key, reason, "labels")
