"""Score a checkpoint: ``python -m hmrkit.eval checkpoint=runs/<name>/checkpoints/last.ckpt``."""

from omegaconf import DictConfig

from hmrkit import configs


def evaluate(config: DictConfig) -> float | None:
    """Evaluate a checkpoint on its own test sources, or on those of ``mix``, and write the report.

    Args:
        config: the composed ``eval.yaml``.

    Returns:
        The metric named by ``optimized_metric``.
    """
    from hmrkit import runs

    return runs.metric(runs.test_checkpoint(config), config.optimized_metric)


def main() -> None:
    """Console entry point."""
    configs.run("eval", evaluate)


if __name__ == "__main__":
    main()
