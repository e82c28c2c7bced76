"""Attention within images whose numbers of tokens differ, without padding.

The tokens of all images are the rows of one tensor, image by image; linear layers and norms do not
care. Attention takes one image after the other: on a CPU that is faster than padding with a mask,
than one masked block-diagonal product, and than nested tensors, for a few dozen tokens as for a
thousand (``tools/bench_attention.py`` measures all four; no GPU was at hand for it).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_counts: Sequence[int],
    key_counts: Sequence[int],
) -> Tensor:
    """Scaled dot-product attention of each image's queries to its own keys.

    Args:
        query: (M, heads, E) rows image by image.
        key: (N, heads, E).
        value: (N, heads, D).
        query_counts: rows of ``query`` of each image.
        key_counts: rows of ``key`` and ``value`` of each image.

    Returns:
        (M, heads * D).
    """
    parts = zip(
        query.transpose(0, 1)[None].split(query_counts, dim=2),  # (1, heads, m, E)
        key.transpose(0, 1)[None].split(key_counts, dim=2),
        value.transpose(0, 1)[None].split(key_counts, dim=2),
        strict=True,
    )
    mixed = [F.scaled_dot_product_attention(q, k, v) for q, k, v in parts]
    return torch.cat(mixed, dim=2)[0].transpose(0, 1).flatten(1)
