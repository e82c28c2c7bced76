"""Compare reports: ``python -m hmrkit.compare runs/a runs/b`` (folders, or their report.json)."""

import itertools
import logging
import sys

from omegaconf import DictConfig

from hmrkit import configs

log = logging.getLogger(__name__)


def compare(config: DictConfig) -> None:
    """Join reports and write one table, as Markdown, HTML and JSON.

    Args:
        config: the composed ``compare.yaml``.

    Raises:
        ValueError: if there are fewer than two reports.
    """
    from hmrkit.reporting.comparison import read_scored
    from hmrkit.reporting.comparison_page import write_comparison

    if len(config.reports) < 2:
        raise ValueError(
            "a comparison needs two reports: python -m hmrkit.compare <folder> <folder> ..."
        )
    scored = [read_scored(path) for path in config.reports]
    page = write_comparison(config.output, scored, config.num_resamples, config.level)
    log.info("%s\nwritten: %s", page.with_suffix(".md").read_text(encoding="utf-8"), page)


def main() -> None:
    """Console entry point; what stands before the first option is a report."""
    given = sys.argv[1:]
    paths = list(itertools.takewhile(lambda a: "=" not in a and a[:1] not in "-+~", given))
    if paths:
        sys.argv[1:] = [*configs.as_overrides({"reports": paths}), *given[len(paths) :]]
    configs.run("compare", compare)


if __name__ == "__main__":
    main()
