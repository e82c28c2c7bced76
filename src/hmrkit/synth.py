"""Make shards of synthetic people: ``python -m hmrkit.synth output=shards/train num=4000``."""

import logging

from omegaconf import DictConfig

from hmrkit import configs

log = logging.getLogger(__name__)


def synthesize(config: DictConfig) -> None:
    """Make a folder of shards, or what is missing of it, and a picture of what it holds.

    Args:
        config: the composed ``synth.yaml``.
    """
    from pathlib import Path

    from hmrkit.data.synth.pictures import write_contact_sheet
    from hmrkit.data.synth.shards import make_shards

    options = configs.to_plain(config)
    num_pictures = options.pop("num_pictures")
    make_shards(**options)
    if num_pictures:
        log.info("pictures: %s", write_contact_sheet(Path(options["output"]), num_pictures))


def main() -> None:
    """Console entry point."""
    configs.run("synth", synthesize)


if __name__ == "__main__":
    main()
