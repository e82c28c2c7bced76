"""Small convolutional networks for minutes on a CPU."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from hmrkit.weight_files import read_halves


class ConvNet(nn.Module):
    """Image to one feature vector, with the spatial layout kept.

    Eight convolutions (strides 2, 1, 2, 1, ...), a 1x1 convolution, then a linear layer over the
    flattened map. At this budget keeping the layout beats pooling by a wide margin: where a limb
    is, is the answer.

    Args:
        input_size: height and width of the image, multiples of 16.
        width: channels of the first stage; they double in each of the four.
        num_channels: channels of the map that is flattened.
        num_features: length of the feature.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        width: int = 16,
        num_channels: int = 128,
        num_features: int = 512,
    ) -> None:
        super().__init__()
        height, width_px = input_size
        if height % 16 or width_px % 16:
            raise ValueError(f"input_size {height}x{width_px}: both must be multiples of 16")
        channels = [3, *(width * 2**stage for stage in range(4) for _ in range(2))]
        self.blocks = nn.Sequential(
            *(
                _block(channels[i], channels[i + 1], kernel=5 if i == 0 else 3, stride=2 - i % 2)
                for i in range(8)
            ),
            _block(channels[-1], num_channels, kernel=1, stride=1),
        )
        self.linear = nn.Linear(num_channels * (height // 16) * (width_px // 16), num_features)
        self.num_features = num_features

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to features (B, num_features), not negative."""
        return self.linear(self.blocks(image).flatten(1)).relu()


class ConvMap(nn.Module):
    """Image to a feature map, for methods that read maps.

    Two convolutions per stage, the first of which halves the map; channels double.

    Args:
        width: channels of the first stage.
        num_stages: 5 for a map of a 32nd of the image's size, as ResNet's.
        num_global: numbers that the whole map is told in, and that are told to all of it; 0 = none.
        input_size: height and width of the image, which ``num_global`` needs.
    """

    def __init__(
        self,
        width: int = 16,
        num_stages: int = 5,
        num_global: int = 0,
        input_size: tuple[int, int] = (224, 224),
    ) -> None:
        super().__init__()
        channels = [3, *(width * 2**stage for stage in range(num_stages) for _ in range(2))]
        self.blocks = nn.Sequential(
            *(
                _block(channels[i], channels[i + 1], kernel=5 if i == 0 else 3, stride=2 - i % 2)
                for i in range(2 * num_stages)
            )
        )
        self.num_features = channels[-1]
        self.whole: nn.Module | None = None
        if num_global:
            num = channels[-1] * math.prod(side // 2**num_stages for side in input_size)
            layers = (nn.Linear(num, num_global), nn.ReLU(), nn.Linear(num_global, num), nn.ReLU())
            self.whole = nn.Sequential(*layers)

    def features(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to a map (B, num_features, H / 32, W / 32), or finer."""
        local = self.blocks(image)
        if self.whole is None:
            return local
        return local + self.whole(local.flatten(1)).view_as(local)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to the mean of its map (B, num_features)."""
        return self.features(image).mean(dim=(2, 3))


class ConvTokens(nn.Module):
    """Image to one token per patch, as a vision transformer's, for methods that read tokens.

    Two convolutions per stage, the first of which halves the map; a 1x1 convolution; positions.

    Args:
        image_size: height and width of the images, multiples of the patch size.
        patch_size: side of a patch, px, a power of 2.
        width: channels of the first stage; they double.
        dim: width of a token.
    """

    def __init__(
        self, image_size: tuple[int, int], patch_size: int = 16, width: int = 16, dim: int = 128
    ) -> None:
        super().__init__()
        num_stages = patch_size.bit_length() - 1
        if patch_size != 2**num_stages or any(side % patch_size for side in image_size):
            raise ValueError(
                f"patch_size={patch_size}: a power of 2 that divides image_size={list(image_size)}"
            )
        channels = [3, *(width * 2 ** (i // 2) for i in range(2 * num_stages))]
        self.blocks = nn.Sequential(
            *(
                _block(channels[i], channels[i + 1], kernel=5 if i == 0 else 3, stride=2 - i % 2)
                for i in range(2 * num_stages)
            )
        )
        self.to_tokens = nn.Conv2d(channels[-1], dim, 1)
        num_patches = (image_size[0] // patch_size) * (image_size[1] // patch_size)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, num_patches, dim)))
        self.image_size = tuple(image_size)
        self.num_features = dim

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), normalised, to tokens (B, N, dim), row by row."""
        return self.to_tokens(self.blocks(image)).flatten(2).transpose(1, 2) + self.pos_embed


def read_stem(path: str | Path | None = None) -> dict[str, Tensor]:
    """Weights of the first eight ``blocks`` of width 16, as the quick start leaves them.

    For ``initial_weights`` of a network of this module, or of another with the same blocks.

    Args:
        path: what ``tools/make_tiny_stem.py`` made; None for the one that comes with hmrkit.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    return read_halves(path or Path(__file__).with_name("tiny_stem.safetensors"))


def _block(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
