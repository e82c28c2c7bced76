"""A convolution and its norm as one."""

from itertools import product

import pytest
import torch
from torch import nn

from hmrkit.layers.normed import Pointwise, activated, normed

CONVS = {
    "3x3": lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
    "pointwise": lambda: Pointwise(6, 8, 1, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1, bias=False),
}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def made(kind: str) -> tuple[nn.Module, nn.BatchNorm2d]:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    for value in (norm.weight, norm.running_var):
        nn.init.uniform_(value, 0.5, 1.5)
    for value in (norm.bias, norm.running_mean):
        nn.init.normal_(value)
    return CONVS[kind](), norm.eval()


@pytest.mark.parametrize(("kind", "layout"), list(product(CONVS, LAYOUTS)))
@pytest.mark.parametrize("with_shortcut", [False, True])
@pytest.mark.parametrize("size", [4, 32], ids=["few_pixels", "many_pixels"])
def test_in_eval_mode_they_give_the_same_in_one_as_in_two(kind, layout, with_shortcut, size):
    conv, norm = made(kind)
    image = torch.randn(2, 6, size, size).contiguous(memory_format=LAYOUTS[layout])
    image.requires_grad_()
    plain = norm(conv(image))
    shortcut = torch.randn_like(plain) if with_shortcut else None
    kept = None if shortcut is None else shortcut.clone()
    expected = plain if shortcut is None else plain + shortcut
    weights = [image, *conv.parameters(), *norm.parameters()]
    for found, wanted in (
        (normed(conv, norm, image), plain),
        (activated(conv, norm, image, shortcut), expected.relu()),
    ):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        pairs = [
            torch.autograd.grad(y.square().sum(), weights, retain_graph=True)
            for y in (found, wanted)
        ]
        for grad, right in zip(*pairs, strict=True):
            torch.testing.assert_close(grad, right, atol=1e-3, rtol=1e-4)
    assert shortcut is None or torch.equal(shortcut, kept)


def test_in_training_the_norm_follows_the_batch():
    conv, norm = made("3x3")
    before = norm.running_mean.clone()
    activated(conv, norm.train(), torch.randn(2, 6, 32, 32))
    assert not torch.equal(norm.running_mean, before)


def test_an_exported_network_takes_batches_of_every_size():
    conv, norm = made("3x3")
    size = torch.export.Dim("batch", min=1, max=64)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = conv, norm

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return activated(self.conv, self.norm, image)

    net = Both().eval()
    exported = torch.export.export(net, (torch.randn(3, 6, 16, 16),), dynamic_shapes=({0: size},))
    for num in (1, 8):
        image = torch.randn(num, 6, 16, 16)
        torch.testing.assert_close(exported.module()(image), net(image), atol=1e-5, rtol=1e-5)
