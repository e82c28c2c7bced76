"""One line of the page: what was looked at, what was found, what to do."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

STATUSES = ("ok", "warn", "fail")
_HASH_DIGITS = 12


@dataclass(frozen=True)
class Line:
    """What was found about one thing.

    Attributes:
        section: heading it belongs below.
        name: what was looked at.
        status: "ok"; "warn": something optional does not work; "fail": hmrkit does not.
        found: one sentence.
        remedy: what to do; empty where all is well.
    """

    section: str
    name: str
    status: str
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        assert self.status in STATUSES, self.status
        assert self.status == "ok" or self.remedy, f"{self.name}: no remedy"


def short_hash(path: Path) -> str:
    """The first digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:_HASH_DIGITS]


def size_text(num_bytes: int) -> str:
    """A size for people: 0.4 MB, 2.7 GB."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.1f} MB"
