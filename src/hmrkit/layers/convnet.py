"""A small convolutional network for minutes on a CPU."""

from torch import Tensor, nn


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


def _block(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
