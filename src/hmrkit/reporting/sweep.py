"""What follows a sweep of evaluations: one comparison of all its reports."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)


class CompareSweep(Callback):
    """Writes a comparison into the folder of a sweep (``hydra.callbacks``).

    Args:
        num_resamples: of the bootstrap.
        level: of the confidence intervals.
    """

    def __init__(self, num_resamples: int, level: float) -> None:
        self.num_resamples, self.level = num_resamples, level

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Join what the jobs have reported, in their order."""
        from hmrkit.reporting.comparison import read_scored
        from hmrkit.reporting.comparison_page import write_comparison

        folder = Path(config.hydra.sweep.dir)
        reports = [path.parent for path in folder.glob("*/report.json")]
        reports.sort(key=lambda path: (len(path.name), path.name))  # jobs are numbered
        if len(reports) > 1:
            scored = [read_scored(path) for path in reports]
            page = write_comparison(folder, scored, self.num_resamples, self.level)
            log.info("%s\nwritten: %s", page.with_suffix(".md").read_text(encoding="utf-8"), page)
