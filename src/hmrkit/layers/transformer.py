"""HMR2.0's decoder: one query token that reads an image's tokens through cross-attention.

query = bias + position -> depth x [self-attention, cross-attention, MLP], pre-norm -> (B, D)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class QueryDecoder(nn.Module):
    """Image tokens to one feature vector.

    The query starts from the same learned value for every image. Attention of a single token to
    itself passes its value on, so queries and keys of the self-attention have no effect; they exist
    because published weights hold them.

    Args:
        context_dim: width C of the image's tokens, which are not normalised here.
        dim: width D of the query.
        depth: number of layers.
        num_heads: of each attention.
        head_dim: width of a head.
        mlp_dim: hidden width of the MLP.
    """

    def __init__(
        self,
        context_dim: int,
        dim: int = 1024,
        depth: int = 6,
        num_heads: int = 8,
        head_dim: int = 64,
        mlp_dim: int = 1024,
    ) -> None:
        super().__init__()
        self.num_features = dim
        self.to_token_embedding = nn.Linear(1, dim)
        self.pos_embedding = nn.Parameter(torch.randn(1, 1, dim))
        self.layers = nn.ModuleList(
            DecoderLayer(dim, context_dim, num_heads, head_dim, mlp_dim) for _ in range(depth)
        )

    def forward(self, context: Tensor) -> Tensor:
        """Image tokens (B, N, C) to a feature (B, D)."""
        zero = context.new_zeros(len(context), 1, 1)  # the input of the only query
        query = self.to_token_embedding(zero) + self.pos_embedding
        for layer in self.layers:
            query = layer(query, context)
        return query[:, 0]


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and MLP, each pre-norm and added to its input."""

    def __init__(
        self, dim: int, context_dim: int, num_heads: int, head_dim: int, mlp_dim: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = SingleTokenAttention(dim, num_heads * head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = CrossAttention(dim, context_dim, num_heads, head_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Query (B, 1, D) and context (B, N, C) to (B, 1, D)."""
        query = query + self.self_attention(self.norm1(query))
        query = query + self.cross_attention(self.norm2(query), context)
        return query + self.mlp(self.norm3(query))


class SingleTokenAttention(nn.Module):
    """Self-attention of one token: its value, projected."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, token: Tensor) -> Tensor:
        """(B, 1, D) to (B, 1, D)."""
        weight_of_value = self.to_qkv.weight.chunk(3)[2]
        return self.to_out(F.linear(token, weight_of_value))


class CrossAttention(nn.Module):
    """Multi-head attention of queries to a context."""

    def __init__(self, dim: int, context_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Queries (B, M, D) and context (B, N, C) to (B, M, D)."""
        heads = (self.num_heads, -1)
        q = self.to_q(query).unflatten(-1, heads).transpose(1, 2)
        k, v = (
            part.unflatten(-1, heads).transpose(1, 2) for part in self.to_kv(context).chunk(2, -1)
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
