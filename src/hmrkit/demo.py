"""People in photos: ``python -m hmrkit.demo checkpoint=<file.ckpt> input=photo.jpg``."""

from omegaconf import DictConfig

from hmrkit import configs


def demo(config: DictConfig) -> None:
    """Write an overlay, an npz and a glb for every picture; see ``configs_hydra/demo.yaml``.

    Args:
        config: the composed ``demo.yaml``.
    """
    from hmrkit.infer import rig, run

    demo_one = run.demo_pictures if config.calibration is None else rig.demo_rig
    demo_one(config)


def main() -> None:
    """Console entry point."""
    configs.run("demo", demo)


if __name__ == "__main__":
    main()
