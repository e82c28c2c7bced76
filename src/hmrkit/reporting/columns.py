"""How the columns of per-person rows are named, and what each metric is called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STAGE = re.compile(r"^stage(\d+)_(.+)$")


@dataclass(frozen=True)
class Metric:
    """What people call a metric, its unit, and how many decimals mean something."""

    title: str
    unit: str = "mm"
    decimals: int = 1


_METRICS = {
    "mpjpe": Metric("MPJPE"),
    "pa_mpjpe": Metric("PA-MPJPE"),
    "pve": Metric("PVE"),
    "pa_pve": Metric("PA-PVE"),
    "accel": Metric("acceleration error", "mm/frame²"),
    "pck": Metric("PCK", "%"),
    "auc": Metric("AUC", "%"),
}


def metric(name: str) -> Metric:
    """The entry of a metric; an unknown one keeps its name and is in millimetres."""
    return _METRICS.get(name, Metric(name))


def metric_names(columns: Mapping[str, Any]) -> list[str]:
    """The metrics among the columns of one source, in their order."""
    return [
        name
        for name in columns
        if name not in ("key", "index", "person")
        and not name.startswith("baseline_")
        and not _STAGE.match(name)
    ]


def stage_names(columns: Mapping[str, Any], name: str) -> list[str]:
    """The columns ``stage<i>_<name>`` in the order of their stages."""
    found = [(int(m[1]), m[0]) for m in map(_STAGE.match, columns) if m and m[2] == name]
    return [column for _, column in sorted(found)]


def count_text(num_samples: int, entry: Mapping[str, Any]) -> str:
    """How many people a mean is over, and why it is not all of them."""
    failed, unlabelled = entry["num_failed"], entry["num_unlabelled"]
    text = str(num_samples - failed - unlabelled)
    if failed or unlabelled:
        text += f" of {num_samples}"
    return f"{text}, {failed} FAILED" if failed else text
