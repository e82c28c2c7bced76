"""Train a method: ``python -m hmrkit.train experiment=quickstart``."""

from omegaconf import DictConfig

from hmrkit import configs


def train(config: DictConfig) -> float | None:
    """Train, then evaluate the last weights on the test sources and write the report.

    Args:
        config: the composed ``train.yaml``.

    Returns:
        The metric named by ``optimized_metric``, which a Hydra sweeper minimises.
    """
    from hmrkit import runs

    return runs.metric(runs.fit_and_test(config), config.optimized_metric)


def main() -> None:
    """Console entry point."""
    configs.run("train", train)


if __name__ == "__main__":
    main()
