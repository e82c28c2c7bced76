"""Pack the small pose tokenizer that ``experiment=tokenhmr_tiny`` begins with.

python -m hmrkit.train experiment=tokenhmr_tokenizer_tiny trainer.max_steps=4000
python tools/make_tiny_tokenizer.py runs/tokenhmr_tokenizer_tiny/checkpoints/last.ckpt
"""

import argparse
from pathlib import Path

from safetensors.torch import save_file

from hmrkit.models.tokenhmr import convert


def main() -> None:
    """Read a checkpoint of stage one, write half-precision weights into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    path = Path(convert.__file__).with_name("tiny_tokenizer.safetensors")
    weights = convert.read_tokenizer(parser.parse_args().checkpoint)
    save_file({name: value.half().contiguous() for name, value in weights.items()}, path)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
