"""Networks for tests."""

from torch import Tensor, nn


class PooledLinear(nn.Module):
    """Image to feature without batch statistics."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16, self.num_features)
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.pool(image).flatten(1))
