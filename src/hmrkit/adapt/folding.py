"""Fold BatchNorm in eval mode into the convolution before it: the same function with less work.

    norm(conv(x)) = conv'(x),  weight' = s weight,  bias' = shift - s mean,  s = scale / deviation

The folded weights are values of a graph, so gradients reach the weights they are made of.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hmrkit.layers.hrnet import BasicBlock, HRNet
from hmrkit.layers.resnet import Bottleneck, ResNet

# Children that follow each other in these networks, by number: conv1 and bn1 ...
_NUMBERED = {ResNet: 1, Bottleneck: 3, HRNet: 2, BasicBlock: 2}


class Folded(nn.Module):
    """A network of the same function without its norms, if they follow convolutions we know.

    Args:
        net: in eval mode; it is not changed, and shares its tensors.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.pairs = list(_pairs(net))
        tensors = [*net.parameters(), *net.buffers()]
        self.net = copy.deepcopy(net, {id(tensor): tensor for tensor in tensors})
        norms = {norm: net.get_submodule(norm) for _, norm in self.pairs}
        self.statistics = {
            name: (norm.running_mean, norm.running_var, norm.eps) for name, norm in norms.items()
        }
        for conv, norm in self.pairs:
            self.net.set_submodule(norm, nn.Identity())
            if self.net.get_submodule(conv).bias is None:
                self.net.get_submodule(conv).bias = nn.Parameter(norms[norm].bias.detach())

    def weights(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of ``self.net`` by name, from all weights of the network by name."""
        folded = dict(own)
        for conv, norm in self.pairs:
            mean, variance, eps = self.statistics[norm]
            scale = folded.pop(f"{norm}.weight") * torch.rsqrt(variance + eps)
            shift = folded.pop(f"{norm}.bias") - mean * scale
            folded[f"{conv}.weight"] = own[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
            bias = own.get(f"{conv}.bias")
            folded[f"{conv}.bias"] = shift if bias is None else torch.addcmul(shift, bias, scale)
        return folded


def _pairs(net: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of convolutions and of the norms that alone read them."""
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        for kind, num in _NUMBERED.items():
            if isinstance(module, kind):
                yield from ((f"{prefix}conv{i}", f"{prefix}bn{i}") for i in range(1, num + 1))
        if isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                if isinstance(module[i], nn.Conv2d) and isinstance(module[i + 1], nn.BatchNorm2d):
                    yield f"{prefix}{i}", f"{prefix}{i + 1}"
