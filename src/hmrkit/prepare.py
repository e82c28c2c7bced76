"""Make shards of a download: ``python -m hmrkit.prepare source=<name> input=... output=...``."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hmrkit import configs

_NOT_IN_COMMAND = ("part", "num_parts", "workers", "overwrite")  # they change no byte


def prepare(config: DictConfig) -> None:
    """Convert a download, or what is missing of it.

    Args:
        config: the composed ``prepare.yaml``.
    """
    from hydra.utils import instantiate

    from hmrkit.data.prepare import prepare as make

    choice = HydraConfig.get().runtime.choices["source"]
    if OmegaConf.select(config, "source.prepare") is None:
        raise ValueError(
            f"source={choice} is not made from a download: these are: {', '.join(_preparable())}"
        )
    options = configs.to_plain(config)
    node = options.pop("source")
    options.pop("paths")
    make(
        converter=instantiate(node["prepare"], _convert_="all"),
        source=node.get("name", choice),
        input_folder=options.pop("input"),
        converter_options=node["prepare"],
        command=_command(choice, config),
        **options,
    )


def _preparable() -> list[str]:
    """Names of the sources that have a converter."""
    files = sorted((Path(configs.config_dir()) / "source").glob("*.yaml"))
    return [path.stem for path in files if "prepare" in OmegaConf.load(path)]


def _command(choice: str, config: DictConfig) -> str:
    """The command that makes the same shards in one part."""
    fixed: dict[str, Any] = {"source": choice, "input": config.input, "output": config.output}
    given = [
        override
        for override in HydraConfig.get().overrides.task
        if override.split("=", 1)[0] not in (*fixed, *_NOT_IN_COMMAND)
    ]
    return configs.command_line("prepare", fixed, given)


def main() -> None:
    """Console entry point."""
    configs.run("prepare", prepare)


if __name__ == "__main__":
    main()
