"""Heatmaps of joints: how they are drawn, and how they become tokens.

A joint is a Gaussian around a whole pixel of a 96 x 96 map, cut to a square, enlarged to the size
of the image network's crop. Both steps treat rows and columns alike and apart, so a map is kept as
its two profiles: ``map = rows (h) x columns (w)``. Drawing passes no gradient to the joint.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.models.heatformer.decoder import Attention

_NUM_SIGMAS = 3  # half of the square's side


class Profiles(NamedTuple):
    """Heatmaps of K joints in O views, as rows and columns whose products they are."""

    rows: Tensor  # (O, K, h)
    columns: Tensor  # (O, K, w)

    def maps(self) -> Tensor:
        """The maps (O, K, h, w)."""
        return self.rows[..., :, None] * self.columns[..., None, :]


def map_error(first: Profiles, second: Profiles) -> Tensor:
    """Squared difference (O,) of heatmaps, summed over joints and pixels.

    From the profiles, in double: the maps are not made.
    """
    a, b, c, d = (profile.double() for profile in (*first, *second))  # (O, K, h or w)
    own = a.square().sum(dim=-1) * b.square().sum(dim=-1)
    other = c.square().sum(dim=-1) * d.square().sum(dim=-1)
    both = (a * c).sum(dim=-1) * (b * d).sum(dim=-1)
    return (own - 2 * both + other).clamp(min=0).sum(dim=1).to(first.rows.dtype)


class HeatmapDrawer(nn.Module):
    """Draws joints.

    Args:
        crop_hw: height and width of the crop that the joints lie in.
        input_hw: of its middle columns, which the image network sees.
        map_size: side of the maps.
        sigma: of the Gaussian, px of the maps.
    """

    def __init__(
        self,
        crop_hw: tuple[int, int],
        input_hw: tuple[int, int],
        map_size: int = 96,
        sigma: float = 3.0,
    ) -> None:
        super().__init__()
        self.crop_hw, self.map_size, self.sigma = tuple(crop_hw), map_size, sigma
        self.radius = int(_NUM_SIGMAS * sigma)
        self.margin = (crop_hw[1] - input_hw[1]) // 2  # columns left out on each side

    def centers(self, points_px: Tensor) -> Tensor:
        """Pixels (O, K, 2) int64 of the maps that joints (O, K, 2), px of the crop, belong to.

        Rounded towards zero after half was added, so upwards just left of and above the map.
        """
        # far points, NaN and infinity are drawn nowhere
        return self._on_map(points_px).add(0.5).nan_to_num(-1e6).clamp(-1e6, 1e6).trunc().long()

    def touches(self, points_px: Tensor) -> Tensor:
        """Whether the square around a joint (O, K, 2), px of the crop, meets the map: (O, K)."""
        center = self.centers(points_px)
        is_on = (center - self.radius < self.map_size) & (center + self.radius + 1 >= 0)
        return is_on.all(dim=-1)

    def forward(self, points_px: Tensor, is_drawn: Tensor) -> Profiles:
        """Profiles of maps of joints (O, K, 2), px of the crop; empty where not drawn (O, K)."""
        pixel = torch.arange(self.map_size, device=points_px.device)
        offset = pixel - self.centers(points_px)[..., None]  # (O, K, 2, map_size)
        is_near = (offset.abs() <= self.radius) & is_drawn[..., None, None]
        columns, rows = (self._gauss(offset.float()) * is_near).unbind(dim=2)
        return Profiles(rows, columns)

    def smooth(self, points_px: Tensor, is_drawn: Tensor) -> Profiles:
        """As ``forward``, but neither rounded nor cut: the maps pass a gradient to the joints."""
        pixel = torch.arange(self.map_size, device=points_px.device, dtype=points_px.dtype)
        offset = pixel - self._on_map(points_px)[..., None]
        columns, rows = (self._gauss(offset) * is_drawn[..., None, None]).unbind(dim=2)
        return Profiles(rows, columns)

    def enlarge(self, profiles: Profiles) -> Profiles:
        """The same at the size of the image network's input."""
        rows, columns = (
            F.interpolate(profile, size, mode="linear")
            for profile, size in zip(profiles, self.crop_hw, strict=True)
        )
        return Profiles(rows, columns[..., self.margin : columns.shape[-1] - self.margin])

    def _on_map(self, points_px: Tensor) -> Tensor:
        height, width = self.crop_hw
        return points_px / points_px.new_tensor([width / self.map_size, height / self.map_size])

    def _gauss(self, offset: Tensor) -> Tensor:
        return (-offset.square() / (2 * self.sigma**2)).exp()


class HeatEncoder(nn.Module):
    """Heatmaps to one token per patch: a transformer over the joints, patch by patch.

    A patch's tokens are those of the K joints and one of zeros, which ends as the patch's feature.
    Patches without a joint all have the same feature; it is computed once. The last layer computes
    its only token that is used.

    Args:
        num_joints: K.
        patch_size: side of a patch, px.
        dim: width D of a token.
        depth: number of layers.
        num_heads: of each attention.
        head_dim: width of a head.
        mlp_dim: hidden width of an MLP.
        pos_std: of the fresh embeddings of the joints.
        gain: of the fresh weights. As the authors draw them, features of different heatmaps begin
            all but equal beside image tokens, and a short training does not get past that.
    """

    def __init__(
        self,
        num_joints: int = 17,
        patch_size: int = 16,
        dim: int = 1024,
        depth: int = 2,
        num_heads: int = 8,
        head_dim: int = 64,
        mlp_dim: int = 2048,
        pos_std: float = 1.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.patch_size, self.num_features = patch_size, dim
        self.to_token_embedding = nn.Linear(patch_size**2, dim)
        self.pos_embedding = nn.Parameter(pos_std * torch.randn(1, num_joints + 1, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, num_heads, head_dim, mlp_dim) for _ in range(depth)
        )
        with torch.no_grad():
            for linear in (m for m in self.modules() if isinstance(m, nn.Linear)):
                linear.weight *= gain

    def forward(self, profiles: Profiles) -> Tensor:
        """Heatmaps of O views to features (O, h w, D) of their patches, row by row."""
        rows, columns = (profile.unflatten(-1, (-1, self.patch_size)) for profile in profiles)
        has_row, has_column = rows.any(dim=-1), columns.any(dim=-1)  # (O, K, h), (O, K, w)
        has_joint = has_row[..., :, None] & has_column[..., None, :]  # (O, K, h, w)
        is_filled = has_joint.any(dim=1)  # (O, h, w), M of them
        number = is_filled.flatten().cumsum(dim=0).view_as(is_filled) - 1
        view, joint, i, j = has_joint.nonzero(as_tuple=True)
        seen = Profiles(rows[view, joint, i], columns[view, joint, j]).maps().flatten(1)
        token = number[view, i, j] * self.pos_embedding.shape[1] + joint
        num_filled = int(number[-1, -1, -1]) + 1
        features = self._encode(seen, token, num_filled)  # (M + 1, D)
        place = torch.where(is_filled, number, num_filled).flatten(1)  # (O, h w)
        return features[place]

    def _encode(self, seen: Tensor, token: Tensor, num_filled: int) -> Tensor:
        """Patches to features (M + 1, D); the last one is that of an empty patch.

        Args:
            seen: (E, p p) heatmaps of one joint in one patch, those that are not empty.
            token: (E,) their rows among the (M + 1) (K + 1) tokens.
            num_filled: M.
        """
        empty = (self.to_token_embedding.bias + self.pos_embedding)[0]  # (K + 1, D)
        num_tokens = len(empty)
        embedded = F.linear(seen, self.to_token_embedding.weight).to(empty.dtype)
        distinct = torch.cat([empty, empty[token % num_tokens] + embedded])  # (K + 1 + E, D)
        row = torch.arange(num_tokens, device=token.device).repeat(num_filled + 1)
        row[token] = torch.arange(num_tokens, len(distinct), device=token.device)
        row = row.unflatten(0, (num_filled + 1, -1))  # (M + 1, K + 1)
        first, *others = self.layers
        tokens = first.of_rows(distinct, row, is_last=not others)
        for layer in others[:-1]:
            tokens = layer(tokens, tokens)
        return (others[-1](tokens[:, -1:], tokens) if others else tokens)[:, 0]


class EncoderLayer(nn.Module):
    """Attention and MLP, each pre-norm and added to its input."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, dim))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Some of the tokens (M, N, D), (M, Q, D), after attention to all of them."""
        normed = self.norm1(tokens)
        own = normed if queries is tokens else self.norm1(queries)
        queries = queries + self.attention(own, self.attention.keys_values(normed))
        return queries + self.mlp(self.norm2(queries))

    def of_rows(self, distinct: Tensor, row: Tensor, is_last: bool) -> Tensor:
        """``forward`` of the tokens ``distinct[row]``, normalised and projected once each.

        Args:
            distinct: (R, D).
            row: (M, N) which of them a token is.
            is_last: of the last token alone.

        Returns:
            (M, N, D), or (M, 1, D).
        """
        normed = self.norm1(distinct)
        keys, values = (
            F.embedding(row, projected).unflatten(-1, (self.attention.num_heads, -1))
            for projected in (self.attention.to_k(normed), self.attention.to_v(normed))
        )  # (M, N, heads, d)
        asked = row[:, -1:] if is_last else row
        keys_values = keys.transpose(1, 2), values.transpose(1, 2)
        queries = F.embedding(asked, distinct)
        queries = queries + self.attention(F.embedding(asked, normed), keys_values)
        return queries + self.mlp(self.norm2(queries))
