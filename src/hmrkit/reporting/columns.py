"""How the columns of per-person rows are named, and what each metric is called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STAGE = re.compile(r"^stage(\d+)_(.+)$")
_CURVE = re.compile(r"^curve(\d+)_(.+)$")


@dataclass(frozen=True)
class Metric:
    """What people call a metric, its unit, and how many decimals mean something."""

    title: str
    unit: str = "mm"
    decimals: int = 1


NAMING = ("key", "index", "person", "sequence", "action")  # columns that say who a row is

_METRICS = {
    "mpjpe": Metric("MPJPE"),
    "pa_mpjpe": Metric("PA-MPJPE"),
    "pve": Metric("PVE"),
    "pa_pve": Metric("PA-PVE"),
    "accel": Metric("acceleration error", "mm/frame²"),
    "jitter": Metric("jitter", "mm/frame³"),
    "label_jitter": Metric("jitter of the labels", "mm/frame³"),
    "pck": Metric("PCK", "%"),
    "auc": Metric("AUC", "%"),
    "pa_pck": Metric("PA-PCK", "%"),
    "pa_auc": Metric("PA-AUC", "%"),
    "person_pa_mpjpe": Metric("PA-MPJPE of all views' body"),
    "world_mpjpe": Metric("MPJPE of all views' body, in place"),
    "precision": Metric("precision", "share", 2),
    "recall": Metric("recall", "share", 2),
    "f1": Metric("F1", "share", 2),
    "ece": Metric("calibration error of the score", "%"),
    "nmje": Metric("NMJE"),
    "nmve": Metric("NMVE"),
    "kpl2": Metric("weighted squared 2D distance", "crop side²", 4),
    "pck_0.05": Metric("PCK@0.05", "%"),
    "pck_0.1": Metric("PCK@0.1", "%"),
    "ap": Metric("AP", "%"),
    "ap50": Metric("AP .50", "%"),
    "ap75": Metric("AP .75", "%"),
    "ap_medium": Metric("AP, medium", "%"),
    "ap_large": Metric("AP, large", "%"),
    "ar": Metric("AR", "%"),
    "ar50": Metric("AR .50", "%"),
    "ar75": Metric("AR .75", "%"),
    "ar_medium": Metric("AR, medium", "%"),
    "ar_large": Metric("AR, large", "%"),
    "codes_used": Metric("codes in use", "codes", 0),
    "perplexity": Metric("perplexity", "codes"),
}


def metric(name: str) -> Metric:
    """The entry of a metric; an unknown one keeps its name and is in millimetres."""
    return _METRICS.get(name, Metric(name))


def metric_names(columns: Mapping[str, Any]) -> list[str]:
    """The metrics among the columns of one source, in their order; ``_names`` are none."""
    return [
        name
        for name in columns
        if name not in NAMING
        and not name.startswith(("_", "baseline_"))
        and not _STAGE.match(name)
        and not _CURVE.match(name)
    ]


def stage_names(columns: Mapping[str, Any], name: str) -> list[str]:
    """The columns ``stage<i>_<name>`` in the order of their stages."""
    found = [(int(m[1]), m[0]) for m in map(_STAGE.match, columns) if m and m[2] == name]
    return [column for _, column in sorted(found)]


def curves(columns: Mapping[str, Any]) -> dict[str, list[str]]:
    """The columns ``curve<i>_<loss>`` of each loss, in the order of the steps."""
    found = sorted((m[2], int(m[1]), m[0]) for m in map(_CURVE.match, columns) if m)
    return {loss: [c for name, _, c in found if name == loss] for loss, _, _ in found}


def count_text(num_samples: int, entry: Mapping[str, Any]) -> str:
    """How many people a mean is over, and why it is not all of them."""
    failed, unlabelled = entry["num_failed"], entry["num_unlabelled"]
    text = str(num_samples - failed - unlabelled)
    if failed or unlabelled:
        text += f" of {num_samples}"
    return f"{text}, {failed} FAILED" if failed else text
