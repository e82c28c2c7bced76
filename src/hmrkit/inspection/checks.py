"""The linter: small pure functions that find labels which cannot be right.

A check looks at a bundle of records (``Labels``) and says for each view, person, image or record
whether it could be judged, whether it is bad, and a number for people to see. docs/inspect.md
lists all of them with their remedies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hmrkit.inspection.labels import Labels

ERROR, WARNING = "error", "warning"
NUM_EXAMPLES = 5  # that a finding keeps
NEVER = 2.0
MIN_JUDGED = 20  # before something is said of "most"


class Outcome(NamedTuple):
    """What a check says of N things."""

    is_judged: np.ndarray  # (N,) bool
    is_bad: np.ndarray  # (N,) bool
    value: np.ndarray  # (N,)


@dataclass(frozen=True)
class Check:
    """One kind of mistake.

    Attributes:
        name: kebab-case; it never changes.
        level: what is judged: view, person, image or record.
        find: looks at labels.
        form: format of the value in an example.
        what: one sentence, what was found.
        remedy: one sentence, what to do.
        error_share: from this share of what could be judged the finding is an error, below it a
            warning; 0 is always an error, ``NEVER`` always a warning.
        min_share: below this share, or where few could be judged, there is no finding: single
            cases are normal.
    """

    name: str
    level: str
    find: Callable[[Labels], Outcome]
    form: str
    what: str
    remedy: str
    error_share: float = 0.1
    min_share: float = 0.0


@dataclass(frozen=True, order=True)
class Example:
    """Where to look."""

    record: int  # number in the set
    key: str
    where: str = ""  # such as "person 2"
    detail: str = ""
    view: int = -1  # of the record, for the picture; -1: all


@dataclass
class Tally:
    """What a check said so far."""

    num_judged: int = 0
    num_bad: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Take in another part of the set."""
        self.num_judged += other.num_judged
        self.num_bad += other.num_bad
        self.examples = sorted([*self.examples, *other.examples])[:NUM_EXAMPLES]


@dataclass(frozen=True)
class Finding:
    """One kind of mistake that the set holds."""

    name: str
    severity: str
    count: int
    total: int  # how many could be judged
    level: str
    what: str
    remedy: str
    examples: list[Example]

    @property
    def share(self) -> float:
        """Of what could be judged."""
        return self.count / max(self.total, 1)

    @property
    def extent(self) -> str:
        """How many of how many, in words."""
        many = {"person": "people"}.get(self.level, f"{self.level}s")
        return f"{self.count} of {self.total} {many}, {percent(self.share)}"

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        examples = [
            {"record": e.record, "key": e.key, "where": e.where, "detail": e.detail}
            for e in self.examples
        ]
        return {
            **{k: getattr(self, k) for k in ("name", "severity", "count", "total", "share")},
            "of": self.level,
            "what": self.what,
            "remedy": self.remedy,
            "examples": examples,
        }


def percent(share: float) -> str:
    """A share of all for people; one that is not 0 never looks like it."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.2g} %"


def run_checks(labels: Labels, checks: Sequence[Check]) -> dict[str, Tally]:
    """Tally every check over some records."""
    with np.errstate(all="ignore"):  # absent labels are NaN
        return {check.name: _tally(check, labels) for check in checks}


def _tally(check: Check, labels: Labels) -> Tally:
    outcome = check.find(labels)
    bad = np.flatnonzero(outcome.is_judged & outcome.is_bad)
    examples = [
        _example(check, labels, int(row), float(outcome.value[row])) for row in bad[:NUM_EXAMPLES]
    ]
    return Tally(int(outcome.is_judged.sum()), len(bad), sorted(examples))


def _example(check: Check, labels: Labels, row: int, value: float) -> Example:
    records = {
        "view": labels.record_of_view,
        "person": labels.record_of_person,
        "image": labels.record_of_image,
    }.get(check.level)
    record = row if records is None else int(records[row])
    view, where = -1, ""
    if records is not None:
        within = row - int(np.searchsorted(records, record))
        is_alone = int((records == record).sum()) == 1
        where = "" if is_alone else f"{check.level} {within}"
        view = within if check.level == "view" else -1
        if check.level == "person":
            views = np.flatnonzero(labels.person_of_view == row)
            start = int(np.searchsorted(labels.record_of_view, record))
            view = int(views[0]) - start if len(views) else -1
    number = int(labels.numbers[record])
    return Example(number, labels.keys[record], where, check.form.format(value), view)


def to_finding(check: Check, tally: Tally) -> Finding | None:
    """What a finished tally amounts to."""
    if tally.num_bad == 0:
        return None
    is_rare = tally.num_judged < MIN_JUDGED or tally.num_bad < check.min_share * tally.num_judged
    if check.min_share > 0 and is_rare:
        return None
    is_error = tally.num_bad >= check.error_share * tally.num_judged
    return Finding(
        check.name,
        ERROR if is_error else WARNING,
        tally.num_bad,
        tally.num_judged,
        check.level,
        check.what,
        check.remedy,
        tally.examples,
    )
