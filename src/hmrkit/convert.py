"""Convert: ``python -m hmrkit.convert model=hmr checkpoint=official.pt output=hmr.ckpt``."""

import logging

from omegaconf import DictConfig

from hmrkit import configs

log = logging.getLogger(__name__)


def convert(config: DictConfig) -> None:
    """Read the authors' file, check every weight, write a checkpoint for ``eval`` and ``demo``.

    Args:
        config: the composed ``convert.yaml``.
    """
    from hydra.core.hydra_config import HydraConfig

    from hmrkit.checkpoints import convert_official, save_checkpoint

    method = HydraConfig.get().runtime.choices["model"]
    module = convert_official(method, config.checkpoint, config, **configs.to_plain(config.options))
    save_checkpoint(module, config.output)
    log.info("wrote %s", config.output)


def main() -> None:
    """Console entry point."""
    configs.run("convert", convert)


if __name__ == "__main__":
    main()
