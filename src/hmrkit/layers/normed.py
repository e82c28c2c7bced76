"""A convolution with the BatchNorm behind it, as one convolution where that is less work.

In eval mode a norm scales and shifts channels. Done to the convolution's weights instead, it spares
passes over the maps, forwards and backwards, and the maps before the norm need not be kept. The
numbers are the same to rounding, gradients of all weights included.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Conv = nn.Conv2d | nn.ConvTranspose2d


class Pointwise(nn.Conv2d):
    """A 1x1 convolution of stride 1: a linear map of every pixel.

    Where the channels of a pixel lie side by side in memory (channels last), it is run as one:
    on a CPU its gradients take about 15 % less time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        if x.stride(1) != 1:
            return super().forward(x)
        pixels = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return pixels.permute(0, 3, 1, 2)


def normed(conv: Conv, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``norm(conv(x))``, for a convolution without bias."""
    if not _is_better_folded(conv, norm, x):
        return norm(conv(x))
    return _convolve(conv, x, *_folded(conv, norm))


def activated(
    conv: Conv, norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None = None
) -> Tensor:
    """``relu(norm(conv(x)) + shortcut)``, for a convolution without bias.

    Args:
        conv: without bias.
        norm: of its output.
        x: (B, C, H, W).
        shortcut: (B, C', H', W') added before the ReLU; None for nothing.
    """
    if not _is_better_folded(conv, norm, x):
        out = norm(conv(x))
        return (out if shortcut is None else out.add_(shortcut)).relu_()
    weight, bias = _folded(conv, norm)
    if isinstance(conv, Pointwise) and x.stride(1) == 1:
        pixels, matrix = _pixels(x), weight.flatten(1).t()
        if shortcut is None:
            out = torch.addmm(bias, pixels, matrix)
        else:  # the product is added in place, to what no one else has
            out = (_pixels(shortcut) + bias).addmm_(pixels, matrix)
        return out.relu_().view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
    out = _convolve(conv, x, weight, bias)
    return (out if shortcut is None else out.add_(shortcut)).relu_()


def _is_better_folded(conv: Conv, norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Does the norm of eval mode touch more numbers than folding it does?

    Compilers and exporters fold by themselves; under autocast the norm's own precision counts.
    """
    return (
        not norm.training
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(x.device.type)
        and x.numel() > conv.weight.numel()
    )


def _folded(conv: Conv, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that includes the norm."""
    assert conv.bias is None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    return conv.weight * scale.view(shape), norm.bias - norm.running_mean * scale


def _convolve(conv: Conv, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    run = F.conv_transpose2d if isinstance(conv, nn.ConvTranspose2d) else F.conv2d
    return run(x, weight, bias, conv.stride, conv.padding)


def _pixels(maps: Tensor) -> Tensor:
    """(B, C, H, W), channels last, as rows (B H W, C)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
