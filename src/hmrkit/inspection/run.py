"""What ``hmrkit.inspect`` does: look at a set, and write down and draw what was found."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.body.smpl import SMPL
from hmrkit.data.cache import fetch_source
from hmrkit.data.record import BadRecord
from hmrkit.data.remote import is_remote
from hmrkit.data.shards import ShardSet
from hmrkit.data.workers import progress_bar
from hmrkit.inspection import page, sheet
from hmrkit.inspection.checks import ERROR, Finding, to_finding
from hmrkit.inspection.scan import CHECKS, Scan, scan_set
from hmrkit.inspection.set_checks import find_in_set, open_set
from hmrkit.inspection.skeleton import Skeleton, skeleton_of
from hmrkit.inspection.statistics import Statistics, label_level, plain_statistics, share, short
from hmrkit.render.draw import save_image

SCHEMA_VERSION = 1
_PICTURES_PER_FINDING = 2
_FILES = ("inspect.json", "contact_sheet.png", "inspect.html")

log = logging.getLogger(__name__)


@dataclass
class Inspection:
    """What was found in a set.

    Attributes:
        summary: the content of ``inspect.json``.
        statistics: the numbers behind it.
        findings: errors first, the most frequent first.
        contact_sheet: (H, W, 3) uint8 and what is to be said of it; None without pictures.
        examples: name of a finding -> (caption, picture).
    """

    summary: dict[str, Any]
    statistics: Statistics
    findings: list[Finding]
    contact_sheet: tuple[np.ndarray, str] | None = None
    examples: dict[str, list[tuple[str, np.ndarray]]] = field(default_factory=dict)

    @property
    def num_errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == ERROR for finding in self.findings)


def inspect_shards(
    path: str | Path | Sequence[str],
    body: SMPL,
    output: str | Path | None = None,
    name: str | None = None,
    num_samples: int | None = None,
    num_pictures: int = 16,
    workers: int | str | None = 0,
    with_pixels: bool = False,
    converter: Any = None,
) -> Inspection:
    """Look at a set of shards: statistics, findings, pictures.

    Args:
        path: as for ``ShardSet``.
        body: draws the labelled bodies; poses are held against its joints.
        output: folder for ``inspect.json``, ``inspect.html`` and ``contact_sheet.png``, which are
            replaced; None writes nothing.
        name: of the set, for the headings; None for the manifest's or the folder's.
        num_samples: records to look at, evenly drawn; None for all.
        num_pictures: records on the contact sheet, evenly drawn; 0 for no pictures at all.
        workers: number of processes; None or "auto" for one per core, 0 for this one.
        with_pixels: decode every image as well.
        converter: reads tars of another format in place.

    Raises:
        FileNotFoundError, ValueError: if the shards cannot be opened, or an option is wrong.
    """
    for option, value in (("num_samples", num_samples), ("num_pictures", num_pictures)):
        if value is not None and (isinstance(value, bool) or value < (option == "num_samples")):
            raise ValueError(f"{option}={value!r}: expected a number of records, or null for all")
    shards, problems = open_set(path, name, converter)
    skeleton = skeleton_of(body, _fits(shards.manifest, body))
    numbers = _spread(len(shards), num_samples)
    scan = scan_set(shards, skeleton, numbers, workers, with_pixels)
    findings = _findings(shards, scan, len(numbers) == len(shards), problems)
    summary = _summary(name, path, shards, body, skeleton, len(numbers), scan, findings)
    found = Inspection(summary, scan.statistics, findings)
    if num_pictures:
        _draw(found, shards, sheet.Painter(body, skeleton), num_pictures)
    if output is not None:
        _write(found, Path(output))
    return found


def local_copy(path: Any, name: str | None, cache_dir: str | None, is_in_place: bool) -> Any:
    """Where the shards of an address are on this machine; a local path as it is.

    Args:
        path: of the set, or its address.
        name: of the set, for messages.
        cache_dir: folder that sets of other machines are copied to.
        is_in_place: the tars are of another format, without a manifest.

    Raises:
        ValueError: if the set is elsewhere and there is no ``cache_dir``.
    """
    if not isinstance(path, str) or not is_remote(path):
        return path
    if not cache_dir or path.startswith("pipe:"):
        raise ValueError(f"{path} is not on this machine: cache_dir=<folder> copies it first")
    return fetch_source(path, name or set_name(path), cache_dir, not is_in_place)


def _fits(manifest: Mapping[str, Any], body: SMPL) -> bool:
    """Whether the labels are parameters of this body: made-up people name theirs, else SMPL's."""
    made_with = manifest.get("options", {}).get("body", "smpl")
    return body.name == made_with or body.name.split("-")[0] == made_with


def _spread(total: int, wanted: int | None) -> list[int]:
    """Numbers of records, evenly spaced."""
    if wanted is None or wanted >= total:
        return list(range(total))
    return ((2 * np.arange(wanted) + 1) * total // (2 * wanted)).tolist()


def _findings(shards: ShardSet, scan: Scan, is_whole: bool, problems: list[str]) -> list[Finding]:
    found = find_in_set(shards, scan, is_whole, problems)
    for check in CHECKS:
        if check.name in scan.tallies:
            finding = to_finding(check, scan.tallies[check.name])
            found += [finding] if finding else []
    return sorted(found, key=lambda one: (one.severity != ERROR, -one.share, one.name))


def _summary(
    name: str | None,
    path: Any,
    shards: ShardSet,
    body: SMPL,
    skeleton: Skeleton,
    num_looked_at: int,
    scan: Scan,
    findings: list[Finding],
) -> dict[str, Any]:
    manifest = shards.manifest
    stated = ("kind", "joint_set", "command", "hmrkit_version", "options", "skipped")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": name or manifest.get("source") or set_name(path),
        "path": str(path),
        **{key: manifest[key] for key in stated if manifest.get(key) is not None},
        "num_shards": len(shards.shards),
        "num_bytes": manifest["num_bytes"],
        "num_records": len(shards),
        "num_looked_at": num_looked_at,
        "body": body.name,
        "is_body_of_labels": skeleton.fits,
        **plain_statistics(scan.statistics, shards.joint_set),
        "findings": [finding.plain() for finding in findings],
    }


def set_name(path: Any) -> str:
    """What a set is called by its path: its folder, or that of its first tar."""
    first = Path(path if isinstance(path, str | Path) else path[0]).absolute()
    return first.parent.name if first.suffix == ".tar" else first.name


def _draw(found: Inspection, shards: ShardSet, painter: sheet.Painter, num: int) -> None:
    """Make the contact sheet and the pictures of the findings; unreadable records have none."""
    drawn: dict[tuple[int, int], sheet.Picture | None] = {}
    wanted = [(f, e) for f in found.findings for e in f.examples[:_PICTURES_PER_FINDING]]
    chosen = _spread(len(shards), num)
    pictures, titles, notes, kinds = [], [], set(), []
    with progress_bar(len(chosen) + len(wanted), 0, " pictures", "pictures") as bar:
        for record in chosen:
            try:
                sample = shards.read(record, is_lazy=True)
                picture = painter.record(sample)
            except BadRecord:
                picture = None
            if picture is not None:
                pictures.append(picture.rgb)
                titles.append(" | ".join([sample["key"], *sorted(picture.notes)]))
                notes |= picture.notes
                kinds.append(sheet.kind_of(sample))
            bar.update()
        for finding, example in wanted:
            where = (example.record, example.view)
            if where not in drawn:
                drawn[where] = _draw_example(shards, painter, *where)
            if drawn[where] is not None:
                caption = " ".join(filter(None, (example.key, example.where, example.detail)))
                found.examples.setdefault(finding.name, []).append((caption, drawn[where].rgb))
            bar.update()
    if pictures:
        kind = max(set(kinds), key=kinds.count)
        found.contact_sheet = sheet.contact_sheet(pictures, titles, kind), _legend(painter, kind)


def _draw_example(
    shards: ShardSet, painter: sheet.Painter, record: int, view: int
) -> sheet.Picture | None:
    if record < 0:
        return None
    try:
        return painter.example(shards.read(record, is_lazy=True), view)
    except BadRecord:
        return None


def _legend(painter: sheet.Painter, kind: str) -> str:
    if kind == "motion":
        text = "Frames of each clip, from blue to red, evenly spaced in time."
    else:
        text = (
            "Each image twice: boxes and 2D joints (left limbs blue, right orange), and the "
            "labelled bodies; where transl or the camera is absent they are put on the joints, "
            "which the title says."
        )
    if not painter.skeleton.fits:
        text += (
            f" The bodies are of {painter.body.name!r}, a stand-in for that of the labels: poses "
            "and places are theirs, shapes are not."
        )
    return text


def _write(found: Inspection, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        (output / name).unlink(missing_ok=True)
    text = json.dumps(_finite(found.summary), indent=1, allow_nan=False)
    (output / "inspect.json").write_text(text + "\n", encoding="utf-8")
    if found.contact_sheet is not None:
        save_image(output / "contact_sheet.png", found.contact_sheet[0])
    html = page.render_page(found)
    (output / "inspect.html").write_text(html, encoding="utf-8")


def _finite(value: Any) -> Any:
    """What JSON cannot say (NaN, infinity) becomes None."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_inspection(found: Inspection) -> str:
    """Counts, label coverage, distributions and findings, for the terminal."""
    summary, counts = found.summary, found.summary["counts"]
    looked_at = summary["num_looked_at"]
    partly = f" (of {summary['num_records']})" if looked_at < summary["num_records"] else ""
    head = (
        f"{summary['name']}: {summary.get('kind') or 'unknown kind'}, joint set "
        f"{summary['joint_set']}, {summary['num_shards']} shards, "
        f"{summary['num_bytes'] / 1e6:.1f} MB"
    )
    size = (
        f"{counts['records']} records{partly}, {counts['images']} images, "
        f"{counts['views']} views, {counts['people']} people"
    )
    lines = [head, size, "", "labels"]
    for label, number in found.statistics.coverage.items():
        part = share(found.statistics, label)
        if part is not None:
            lines.append(f"  {label:18}{number:10d} {label_level(label):7}{100 * part:6.1f} %")
    lines += ["", f"  {'':34}{'p5':>10}{'median':>10}{'p95':>10}{'max':>10}"]
    for name, column in summary["distributions"].items():
        numbers = "".join(f"{short(column[key]):>10}" for key in ("p5", "median", "p95", "max"))
        lines.append(f"  {name:34}{numbers}")
    return "\n".join([*lines, "", *_format_findings(found.findings)])


def _format_findings(findings: list[Finding]) -> list[str]:
    if not findings:
        return ["no findings"]
    lines = []
    for one in findings:
        lines += [f"{one.severity.upper():8}{one.name} ({one.extent})", f"        {one.what}"]
        for example in one.examples[:3]:
            where = " ".join(filter(None, (example.key, example.where)))
            lines.append(f"        - {where}: {example.detail}")
        lines.append(f"        -> {one.remedy}")
    return lines
