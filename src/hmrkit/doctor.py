"""What works on this machine: ``python -m hmrkit.doctor``."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from hmrkit import configs

log = logging.getLogger(__name__)


def doctor(config: DictConfig) -> None:
    """Look at everything hmrkit may need, and log a page, or JSON, with a remedy for each gap.

    Args:
        config: the composed ``doctor.yaml``.

    Raises:
        SystemExit: code 1, if something that everything needs does not work.
    """
    from hmrkit.diagnosis import run

    body_models, weights = Path(config.body_models), Path(config.paths.weights)
    lines = run.diagnose(body_models, weights, config.detector, Path.cwd())
    log.info("%s", run.to_json(lines) if config.json else run.format_page(lines))
    if run.count(lines)["fail"]:
        raise SystemExit(1)


def main() -> None:
    """Console entry point."""
    configs.run("doctor", doctor)


if __name__ == "__main__":
    main()
