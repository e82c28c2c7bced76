"""Queries to people: a decoder whose queries are a content and a box (DAB-DETR, Liu et al. 2022).

    content (I, Q, D), box (I, Q, 4) -> 6 x [
        self-attention: content + encoded box
        cross-attention to the image's tokens: content beside encoded centre, narrowed by the size
        MLP
        box <- box + head(content)
    ] -> contents and boxes of every layer

A box is centre x, centre y, width, height in shares of the longest side. It goes from layer to
layer without a gradient, but each layer's result also reaches the head of the layer before it
("look forward twice", Zhang et al. 2023).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.models.sathmr.attention import attend
from hmrkit.models.sathmr.encoder import ReLUMLP
from hmrkit.models.sathmr.positions import logit, sine_encoding

_NEARNESS = 10.0  # height of the peak of each axis in the logits of ``look_nearby``
_REACH = 0.18  # of its heads up and down, a third of it to the sides, in shares of the longest side


class Memory(NamedTuple):
    """What the queries read: N tokens, image by image."""

    values: Tensor  # (N, D)
    positions: Tensor  # (N, D) encoded places
    counts: list[int]  # tokens of each image


class Decoded(NamedTuple):
    """All L layers."""

    hidden: Tensor  # (L, I, Q, D), normalised
    box: Tensor  # (L, I, Q, 4)
    reference: Tensor  # (L, I, Q, 4) the boxes that entered the layers


class Decoder(nn.Module):
    """Refines queries.

    Args:
        dim: width D.
        depth: number of layers L.
        num_heads: of every attention.
        mlp_dim: hidden width of the MLPs.
        begins_nearby: queries look around their boxes from the first step on, which decoders that
            begin with random weights learn late: see ``CrossAttention.look_nearby``.
    """

    def __init__(
        self,
        dim: int = 768,
        depth: int = 6,
        num_heads: int = 4,
        mlp_dim: int = 2048,
        begins_nearby: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.depth = dim, depth
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, mlp_dim, is_first=layer == 0) for layer in range(depth)
        )
        self.norm = nn.LayerNorm(dim)  # of every layer's result
        self.query_scale = ReLUMLP(dim, dim, dim, 2)
        self.box_position = ReLUMLP(2 * dim, dim, dim, 2)
        self.box_size = ReLUMLP(dim, dim, 2, 2)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.box_heads = nn.ModuleList(ReLUMLP(dim, dim, 4, 3) for _ in range(depth))
        for head in self.box_heads:
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        if begins_nearby:
            nn.init.zeros_(self.query_scale.layers[-1].weight)
            nn.init.ones_(self.query_scale.layers[-1].bias)
            for layer in self.layers:
                layer.cross_attention.look_nearby()

    def forward(
        self, content: Tensor, box_logit: Tensor, memory: Memory, may_attend: Tensor | None
    ) -> Decoded:
        """Refine the queries of I images.

        Args:
            content: (I, Q, D).
            box_logit: (I, Q, 4).
            memory: of the same images.
            may_attend: (I or 1, 1, Q, Q) bool, which query may look at which; None for all.
        """
        reference = box_logit.float().sigmoid()
        passed = reference  # the same box, from the second layer on without gradient
        hidden, boxes, references = [], [], []
        for layer, head in zip(self.layers, self.box_heads, strict=True):
            position, sine = self._encode(content, passed, is_first=layer.is_first)
            content = layer(content, position, sine, memory, may_attend)
            hidden.append(self.norm(content))
            change = head(hidden[-1]).float()
            boxes.append((change + logit(reference)).sigmoid())
            references.append(passed)
            reference = (change + logit(passed)).sigmoid()
            passed = reference.detach()
        return Decoded(torch.stack(hidden), torch.stack(boxes), torch.stack(references))

    def _encode(self, content: Tensor, box: Tensor, is_first: bool) -> tuple[Tensor, Tensor]:
        """Position of the queries (I, Q, D), and their centres for the cross-attention."""
        x, y, width, height = box.unbind(-1)
        center = sine_encoding(y, x, self.dim)
        size = sine_encoding(height, width, self.dim)
        position = self.box_position(torch.cat([center, size], dim=-1))
        scale = 1 if is_first else self.query_scale(content)
        wanted = self.box_size(content).float().sigmoid()  # width and height
        ratio = torch.stack([wanted[..., 1] / height, wanted[..., 0] / width], dim=-1)
        narrowed = center.unflatten(-1, (2, -1)) * ratio[..., None]  # (I, Q, 2, D / 2)
        return position, narrowed.flatten(-2) * scale


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and MLP, each pre-norm and added to its input."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, is_first: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.norm1 = nn.LayerNorm(dim)
        self.self_attention = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attention = CrossAttention(dim, num_heads, with_box=is_first)
        self.norm3 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, dim)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        sine: Tensor,
        memory: Memory,
        may_attend: Tensor | None,
    ) -> Tensor:
        """Content (I, Q, D) to the same."""
        content = content + self.self_attention(self.norm1(content), position, may_attend)
        content = content + self.cross_attention(self.norm2(content), position, sine, memory)
        return content + self.linear2(F.relu(self.linear1(self.norm3(content))))


class SelfAttention(nn.Module):
    """Among the queries of an image; places are added to queries and keys."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.bias)

    def forward(self, content: Tensor, position: Tensor, may_attend: Tensor | None) -> Tensor:
        """Content and position (I, Q, D) to (I, Q, D)."""
        heads = (self.num_heads, -1)
        query = self.query_content(content) + self.query_position(position)
        key = self.key_content(content) + self.key_position(position)
        rows = (query, key, self.value(content))
        query, key, value = (row.unflatten(-1, heads).transpose(1, 2) for row in rows)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=may_attend)
        return self.out(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Queries of an image to its tokens; places stand beside the contents in every head."""

    def __init__(self, dim: int, num_heads: int, with_box: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim) if with_box else None
        self.query_sine = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.bias)

    def forward(self, content: Tensor, position: Tensor, sine: Tensor, memory: Memory) -> Tensor:
        """Content, position and encoded centre (I, Q, D) to (I, Q, D)."""
        query, key = self.query_content(content), self.key_content(memory.values)
        key_position = self.key_position(memory.positions)
        if self.query_position is not None:
            query, key = query + self.query_position(position), key + key_position
        query = self._beside(query.flatten(0, 1), self.query_sine(sine).flatten(0, 1))
        key = self._beside(key, key_position)
        value = self.value(memory.values).unflatten(-1, (self.num_heads, -1))
        counts = [content.shape[1]] * len(content)
        mixed = attend(query, key, value, counts, memory.counts)
        return self.out(mixed.view(content.shape))

    @torch.no_grad()
    def look_nearby(self) -> None:
        """Let every head look at another part of the surroundings of the box's centre.

        Sine encodings of near places are alike. The finest waves tell near from nearer, so every
        head compares those, of y and of x, of its tokens' places and of the box's centre, moved by
        the head's own step, which turns the waves. What heads see in different places stays apart,
        as in deformable attention (Zhu et al. 2021), which begins so too.
        """
        dim = self.query_sine.in_features
        half_head = dim // self.num_heads // 2
        steps = torch.linspace(-_REACH, _REACH, self.num_heads // 2)
        steps = torch.cartesian_prod(steps, torch.tensor([-_REACH, _REACH]) / 3)  # (heads, 2) y, x
        period = 20.0 ** (4 * torch.arange(half_head // 2) / dim)  # as in ``sine_encoding``
        turn = 2 * math.pi * steps[..., None] / period  # (heads, 2, pairs)
        sine, cosine = turn.sin(), turn.cos()
        turns = torch.stack([cosine, sine, -sine, cosine], dim=-1).unflatten(-1, (2, 2))
        wave = torch.arange(half_head)
        wave = torch.cat([wave, dim // 2 + wave]).repeat(self.num_heads)  # (dim,) of each output
        gain = math.sqrt(2 * _NEARNESS * math.sqrt(2 * dim / self.num_heads) / half_head)
        chosen = gain * torch.eye(dim)[wave]  # (dim, dim)
        self.key_position.weight.copy_(chosen)
        self.query_sine.weight.copy_(
            (turns.flatten(0, 2) @ chosen.unflatten(0, (-1, 2))).flatten(0, 1)
        )
        for linear in (self.query_sine, self.key_position):
            linear.bias.zero_()

    def _beside(self, content: Tensor, position: Tensor) -> Tensor:
        """Contents and places (N, D) to (N, heads, 2 D / heads)."""
        rows = (content, position)
        return torch.cat([row.unflatten(-1, (self.num_heads, -1)) for row in rows], dim=-1)
