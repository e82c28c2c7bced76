"""A page in the browser: ``python -m hmrkit.app checkpoint=<file.ckpt>``."""

from omegaconf import DictConfig

from hmrkit import configs


def app(config: DictConfig) -> None:
    """Serve the page until it is stopped.

    Args:
        config: the composed ``app.yaml``.
    """
    from hmrkit.api import load
    from hmrkit.web import build_page

    model = load(config.checkpoint, config.device, config.trusted)
    build_page(model).launch(server_name=config.host, server_port=config.port, share=config.share)


def main() -> None:
    """Console entry point."""
    configs.run("app", app)


if __name__ == "__main__":
    main()
