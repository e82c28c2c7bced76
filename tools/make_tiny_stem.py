"""Make the convolutions that tiny runs of methods with a pretrained backbone begin with.

``python tools/make_tiny_stem.py runs/quickstart/checkpoints/last.ckpt output.safetensors``

Where the papers begin with ImageNet's, DINOv2's or ViTPose's weights, the tiny runs of PyMAF,
SAT-HMR and HeatFormer begin with the convolutions of a quick start: those that come with hmrkit
are of ``python -m hmrkit.train experiment=quickstart``, in half precision.
"""

import argparse

from safetensors.torch import save_file

from hmrkit.weight_files import read_checkpoint

_PREFIX = "net.backbone.blocks."
_NUM_BLOCKS = 8  # without the 1 x 1 convolution that follows them


def main() -> None:
    """Read, choose, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("output")
    options = parser.parse_args()
    state = read_checkpoint(options.checkpoint)["state_dict"]
    names = [n for n in state if n.startswith(tuple(f"{_PREFIX}{i}." for i in range(_NUM_BLOCKS)))]
    own = {name.removeprefix(_PREFIX): state[name] for name in names}
    halves = {k: v.half() if v.is_floating_point() else v for k, v in own.items()}
    save_file({k: v.contiguous() for k, v in halves.items()}, options.output)


if __name__ == "__main__":
    main()
