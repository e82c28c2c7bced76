"""Vision transformer, as ViTPose and HMR2.0 build it: no class token, padded patches.

    image (B, 3, H, W) -> patches (B, N, D) + positions -> blocks -> norm -> (B, N, D)

N = h * w patches in row-major order. ViT-H/16 at 256 x 192 has 16 x 12 patches of width 1280 and
631 M parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_EPSILON = 1e-6  # of the norms


class ViT(nn.Module):
    """Images to patch tokens.

    Args:
        image_size: height and width of the images.
        patch_size: side of a patch, px.
        padding: zeros around the image, px; the number of patches does not change.
        dim: width D of a token.
        depth: number of blocks.
        num_heads: of the attention.
        mlp_ratio: hidden width of a block's MLP over D.
        drop_path: probability of skipping a block's branch in training; it grows linearly from 0 in
            the first block to this in the last.
        grad_checkpointing: compute the blocks again in the backward pass instead of keeping what
            they computed: less memory, a third more time.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (256, 192),
        patch_size: int = 16,
        padding: int = 2,
        dim: int = 1280,
        depth: int = 32,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = tuple(image_size)
        self.num_features = dim
        self.grad_checkpointing = grad_checkpointing
        self.patch_embed = PatchEmbed(patch_size, padding, dim)
        num_patches = (image_size[0] // patch_size) * (image_size[1] // patch_size)
        # The first place is that of a class token, which is added to every patch (ViTPose).
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + 1, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        rates = torch.linspace(0, drop_path, depth).tolist()
        self.blocks = nn.ModuleList(Block(dim, num_heads, mlp_ratio, rate) for rate in rates)
        self.last_norm = nn.LayerNorm(dim, eps=_EPSILON)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) to tokens (B, N, D)."""
        if image.shape[-2:] != self.image_size:
            raise ValueError(
                f"images are {image.shape[-2]}x{image.shape[-1]}, this backbone takes "
                f"{self.image_size[0]}x{self.image_size[1]}"
            )
        tokens = self.patch_embed(image) + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.last_norm(tokens)


class PatchEmbed(nn.Module):
    """Image to patch tokens: one convolution whose stride is the patch size."""

    def __init__(self, patch_size: int, padding: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size, padding=padding)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W) to tokens (B, N, D), row by row."""
        return self.proj(image).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=_EPSILON)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        tokens = tokens + self._drop(self.attn(self.norm1(tokens)))
        return tokens + self._drop(self.mlp(self.norm2(tokens)))

    def _drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth: whole samples skip the branch, the others are scaled up."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        mask = branch.new_empty(len(branch), 1, 1).bernoulli_(keep)
        return branch * mask / keep


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, num_hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, num_hidden)
        self.fc2 = nn.Linear(num_hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.fc2(F.gelu(self.fc1(tokens)))
