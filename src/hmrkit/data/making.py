"""What there is of a set of shards that is being prepared: its options, its finished shards.

A folder in the making holds finished shards and, in ``.prepare``, the options and a note per
finished shard. The manifest comes last and replaces these.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmrkit import __version__
from hmrkit.data.conversion import Outcome, note_name, shard_name
from hmrkit.data.index import index_path
from hmrkit.data.manifest import MANIFEST, PREPARING, parse_manifest, refuse_other_options
from hmrkit.data.place import LocalPlace, RemotePlace
from hmrkit.data.record import SCHEMA_VERSION

_BEGUN = f"{PREPARING}/options.json"
_REMEDY = "give another output, or overwrite=true to make it anew"
_LEFTOVER = re.compile(r"\.\d{6}\.tar.*\.tmp")  # of killed writers


class Making:
    """The shards of one source at one place, and one part of them.

    Args:
        place: where they are.
        source: name of the source.
        options: all that decides their bytes, plain values; ``num_input_records`` and
            ``records_per_shard`` among them.
        part: the part's shards are every ``num_parts``-th, beginning with number ``part``.
        num_parts: number of parts.

    Attributes:
        num_records: of the input.
        num_shards: of all parts.
        own: numbers of the part's shards.
        num_own_records: of the input that the part converts.
        fingerprint: of the options and the version.
    """

    def __init__(
        self,
        place: LocalPlace | RemotePlace,
        source: str,
        options: Mapping[str, Any],
        part: int,
        num_parts: int,
    ) -> None:
        self.place, self.source = place, source
        self.options = json.loads(json.dumps(options))
        self.num_records = self.options["num_input_records"]
        self.num_shards = -(-self.num_records // self.options["records_per_shard"])
        self.own = range(part, self.num_shards, num_parts)
        self.num_own_records = sum(len(self.indices(number)) for number in self.own)
        self._begun = {
            "source": source,
            "schema_version": SCHEMA_VERSION,
            "hmrkit_version": __version__,
            "options": self.options,
        }
        digest = hashlib.sha256(json.dumps(self._begun, sort_keys=True).encode())
        self.fingerprint = digest.hexdigest()[:16]

    def indices(self, number: int) -> range:
        """The converter's records that shard ``number`` holds."""
        step = self.options["records_per_shard"]
        return range(number * step, min((number + 1) * step, self.num_records))

    def begin(self, overwrite: bool) -> dict[str, Any] | None:
        """Look what the place holds, refuse what is not ours, note the options.

        Args:
            overwrite: remove the shards of this part, with whatever options they were made.

        Returns:
            The manifest if everything is finished.

        Raises:
            ValueError: if the place holds something else.
        """
        sizes = self.place.sizes()
        then = self._held(sizes)
        if then is not None and not overwrite:
            self._refuse_other(then)
            if MANIFEST in sizes:
                manifest = self.read_manifest()
                shards = manifest["shards"] if manifest else []
                if shards and all(sizes.get(s["name"]) == s["num_bytes"] for s in shards):
                    self.place.remove_folder(PREPARING)  # if killed in the very end
                    return manifest
        # The note of the options comes before anything that needs it: tars without one are refused.
        self.place.write(_BEGUN, (json.dumps(self._begun, indent=1) + "\n").encode())
        if MANIFEST in sizes:
            self.place.remove([MANIFEST])
        if overwrite:
            self._clear(sizes)
        return None

    def _held(self, sizes: Mapping[str, int]) -> dict[str, Any] | None:
        """Source and options of what the place holds; None if it is empty."""
        files = self.place.read([_BEGUN])  # first: who ends writes the manifest, then removes this
        files |= self.place.read([MANIFEST])
        name = MANIFEST if MANIFEST in files else _BEGUN
        if name not in files:
            if any(file.endswith(".tar") for file in sizes):
                raise ValueError(
                    f"output={self.place} holds tars that hmrkit.prepare did not make: give "
                    "another output"
                )
            return None
        try:
            then = json.loads(files[name])
            held, _ = then["source"], then["options"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.place}/{name} is damaged: delete the folder") from error
        if held != self.source:
            raise ValueError(
                f"output={self.place} holds the shards of source {held!r}, not of "
                f"{self.source!r}: give another output"
            )
        return then

    def _refuse_other(self, then: Mapping[str, Any]) -> None:
        """Finished shards may be of an older version, but two do not mix."""
        is_finished = "shards" in then
        if is_finished:
            refuse_other_options(self.place, then["options"], self.options, _REMEDY)
        else:
            versions = ("schema_version", "hmrkit_version")
            refuse_other_options(
                self.place,
                {**then["options"], **{name: then.get(name) for name in versions}},
                {**self.options, **{name: self._begun[name] for name in versions}},
                _REMEDY,
            )

    def _clear(self, sizes: Mapping[str, int]) -> None:
        """Remove this part's shards, and those that no part will make."""
        made = [int(name[:6]) for name in sizes if re.fullmatch(r"\d{6}\.tar", name)]
        gone = [shard_name(n) for n in made if n in self.own or n >= self.num_shards]
        self.place.remove(self._notes(self.own).values())  # first: they say that a shard is there
        self.place.remove(index_path(Path(name)).name for name in gone)
        self.place.remove(gone)

    def _notes(self, numbers: Sequence[int]) -> dict[int, str]:
        """Names of the notes that exist, by shard number."""
        there = self.place.sizes(PREPARING)
        names = {number: note_name(number) for number in numbers}
        return {number: name for number, name in names.items() if Path(name).name in there}

    def outcomes(self, numbers: Sequence[int]) -> dict[int, Outcome]:
        """What became of the finished ones of some shards."""
        notes = self._notes(numbers)
        contents = self.place.read(list(notes.values()))
        sizes = self.place.sizes()
        found = {}
        for number, name in notes.items():
            outcome = Outcome.from_json(contents.get(name, b""))
            if outcome is not None and outcome.is_whole(self.fingerprint, sizes):
                found[number] = outcome
        return found

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, if there is one."""
        found = self.place.read([MANIFEST])
        if MANIFEST not in found:
            return None
        return parse_manifest(found[MANIFEST].decode(), f"{self.place}/{MANIFEST}")

    def end(self, manifest_text: str) -> None:
        """Write the manifest and remove what only the making needed."""
        self.place.remove(name for name in self.place.sizes() if _LEFTOVER.fullmatch(name))
        self.place.write(MANIFEST, manifest_text.encode())
        self.place.remove_folder(PREPARING)
