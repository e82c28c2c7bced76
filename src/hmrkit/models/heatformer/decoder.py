"""The decoder over the tokens of all views, its attention, and the places of the tokens.

    queries (P, N, D) -> linear -> depth x [self-attention, cross-attention, MLP], pre-norm
    keys and values: the context (P, N, D) as it is, not normalised

N = views * patches, D = 2304. The context is the same in every iteration, so its keys and values
are made once.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KeysValues = tuple[Tensor, Tensor]  # (B, heads, N, d) each
_TEMPERATURE = 10000.0  # of the sine encoding
_EPSILON = 1e-6
_FEW_TOKENS = 256


class ViewDecoder(nn.Module):
    """What the images show, asked about what the current estimate would look like.

    Args:
        dim: width D of a token.
        depth: number of layers.
        num_heads: of each attention.
        head_dim: width of a head.
        mlp_dim: hidden width of the MLP.
        dropout: of the cross-attention: of its weights and of its output.
        matched_gain: of the weights by which a fresh cross-attention makes queries and keys, the
            same for both: a token begins by looking at what its own place shows, and need not find
            it first. The larger the sharper; 0 draws them apart, small, as the authors do.
    """

    def __init__(
        self,
        dim: int = 2304,
        depth: int = 2,
        num_heads: int = 8,
        head_dim: int = 64,
        mlp_dim: int = 2048,
        dropout: float = 0.5,
        matched_gain: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.to_token_embedding = nn.Linear(dim, dim)
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, head_dim, mlp_dim, dropout) for _ in range(depth)
        )
        if matched_gain:
            nn.init.eye_(self.to_token_embedding.weight)
            for layer in self.layers:
                layer.cross_attention.match(matched_gain)

    def keys_values(self, context: Tensor) -> list[KeysValues]:
        """Keys and values of every layer for a context (P, N, D)."""
        return [layer.cross_attention.keys_values(context) for layer in self.layers]

    def forward(
        self, queries: Tensor, context: list[KeysValues], mask: Tensor | None = None
    ) -> Tensor:
        """Queries (P, N, D) to features (P, N, D).

        Args:
            queries: the tokens of the current estimate.
            context: of ``keys_values``.
            mask: (P, N) bool, the tokens that exist; None for all.
        """
        mask = None if mask is None else mask[:, None, None]  # (P, 1, 1, N)
        tokens = self.to_token_embedding(queries)
        for layer, keys_values in zip(self.layers, context, strict=True):
            tokens = layer(tokens, keys_values, mask)
        return tokens


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and MLP, each pre-norm and added to its input."""

    def __init__(
        self, dim: int, num_heads: int, head_dim: int, mlp_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = Attention(dim, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, num_heads, head_dim, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, tokens: Tensor, context: KeysValues, mask: Tensor | None) -> Tensor:
        """Tokens (P, N, D) to tokens (P, N, D); ``mask`` broadcasts to (P, heads, N, N)."""
        normed = self.norm1(tokens)
        own = self.self_attention.keys_values(normed)
        tokens = tokens + self.self_attention(normed, own, mask)
        tokens = tokens + self.cross_attention(self.norm2(tokens), context, mask)
        return tokens + self.mlp(self.norm3(tokens))


class Attention(nn.Module):
    """Multi-head attention whose keys and values are made apart from its queries."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads, self.dropout = num_heads, dropout
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(dim, inner, bias=False)
        self.to_v = nn.Linear(dim, inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def match(self, gain: float) -> None:
        """Draw the same weights for queries and keys, so that like attends to like."""
        nn.init.normal_(self.to_q.weight, std=gain * self.to_q.in_features**-0.5)
        with torch.no_grad():
            self.to_k.weight.copy_(self.to_q.weight)

    def keys_values(self, context: Tensor) -> KeysValues:
        """Keys and values of a context (B, N, D)."""
        return self._heads(self.to_k(context)), self._heads(self.to_v(context))

    def forward(
        self, queries: Tensor, keys_values: KeysValues, mask: Tensor | None = None
    ) -> Tensor:
        """Queries (B, M, D) to (B, M, D)."""
        dropout = self.dropout if self.training else 0.0
        attend = F.scaled_dot_product_attention
        if _is_better_unfused(keys_values[0]):
            attend = _attention
        heads = attend(
            self._heads(self.to_q(queries)), *keys_values, attn_mask=mask, dropout_p=dropout
        )
        return F.dropout(self.to_out(heads.transpose(1, 2).flatten(2)), dropout, self.training)

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _is_better_unfused(keys: Tensor) -> bool:
    """Whether keys (B, heads, N, d) are better attended to step by step.

    Backwards through few tokens, PyTorch's fused kernel for CPUs is many times slower.
    """
    has_backward = torch.is_grad_enabled() and keys.requires_grad
    return has_backward and keys.device.type == "cpu" and keys.shape[2] <= _FEW_TOKENS


def _attention(
    queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None, dropout_p: float
) -> Tensor:
    """What ``F.scaled_dot_product_attention`` computes."""
    weight = queries * queries.shape[-1] ** -0.5 @ keys.mT
    if attn_mask is not None:
        weight = weight.masked_fill(~attn_mask, -torch.inf)
    return F.dropout(weight.softmax(dim=-1), dropout_p) @ values


class PositionEmbedding(nn.Module):
    """Sines of view, row and column, through two linear layers, to a token's width.

    The first layer is linear in what belongs to the view, to the row and to the column, so each of
    these passes it on its own: tens of vectors in place of hundreds.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.axis_dim = dim // 2
        self.linear1 = nn.Linear(3 * self.axis_dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)

    def forward(self, num_views: int, grid_hw: tuple[int, int]) -> Tensor:
        """Embeddings (views, h, w, D) of a person's tokens."""
        device = self.linear1.weight.device
        weights = self.linear1.weight.split(self.axis_dim, dim=1)
        view, row, column = (
            F.linear(encode_axis(size, self.axis_dim).to(device), weight)
            for size, weight in zip((num_views, *grid_hw), weights, strict=True)
        )
        hidden = view[:, None, None] + row[None, :, None] + column + self.linear1.bias
        return self.linear2(hidden.relu())


def encode_axis(size: int, dim: int) -> Tensor:
    """Sine encoding (size, dim) of the positions along one axis: first all sines, then cosines."""
    position = torch.arange(1, size + 1, dtype=torch.float32) / (size + _EPSILON) * 2 * math.pi
    exponent = 2 * (torch.arange(dim) // 2) / dim
    angle = position[:, None] / _TEMPERATURE**exponent
    return torch.cat([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=1)
