"""Denoising queries: labelled people with noise, to be restored (DINO, Zhang et al. 2023).

Each of G groups holds everybody twice: with little noise (to be restored) and with more (to be
recognised as wrong). Groups do not see each other, and ordinary queries do not see them at all.
Slots are numbered alike in all images of a batch: group g has 2 n of them, n being the most people
in one image; person k is in slots 2 n g + k and 2 n g + n + k.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.geometry.rotations import rotmat_to_axis_angle
from hmrkit.models.sathmr.labels import SceneLabels
from hmrkit.models.sathmr.positions import logit


class Noise(NamedTuple):
    """Draws for the rows of 2 G blocks of all M people: even blocks little, odd blocks more."""

    box_sign: Tensor  # (2 G M, 4) 0 or 1
    box: Tensor  # (2 G M, 4) in [0, 1)
    parameter_sign: Tensor  # (2 G M, 82) 0 or 1
    parameter: Tensor  # (2 G M, 82) in [0, 1)


class DenoisingQueries(NamedTuple):
    """S slots in each of I images, M labelled people."""

    content: Tensor  # (I, S, D)
    box_logit: Tensor  # (I, S, 4)
    is_used: Tensor  # (I, S) bool; the others are padding
    slot: Tensor  # (G, M) int64, place in I * S of each person to be restored


class Denoiser(nn.Module):
    """Makes the queries.

    Args:
        dim: width D of a query.
        num_groups: G.
        box_noise: largest shift of a corner, in shares of half the side; twice that for wrong ones.
        parameter_noise: largest change of pose (axis-angle) and betas; likewise.
        with_empty_slots: unused slots take part in attention and loss, as upstream's do: results
            then depend on the largest crowd of the batch.
    """

    def __init__(
        self,
        dim: int = 768,
        num_groups: int = 10,
        box_noise: float = 0.4,
        parameter_noise: float = 0.2,
        with_empty_slots: bool = False,
    ) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.box_noise, self.parameter_noise = box_noise, parameter_noise
        self.with_empty_slots = with_empty_slots
        self.embed = nn.Linear(24 * 3 + 10, dim)

    def forward(self, labels: SceneLabels, num_images: int) -> DenoisingQueries:
        """Queries for the people in I images."""
        counts = labels.image.bincount(minlength=num_images)
        most = int(counts.max()) if len(labels.image) else 0
        first = counts.cumsum(0) - counts
        place = torch.arange(len(labels.image), device=counts.device) - first[labels.image]
        block = torch.arange(2 * self.num_groups, device=counts.device)
        num_slots = 2 * self.num_groups * most
        flat = labels.image * num_slots + block[:, None] * most + place  # (2 G, M)
        with torch.autocast(counts.device.type, enabled=False):
            box, parameters = self._noised(labels, self.draw(len(labels.image), labels.box))
        content, index = self.embed(parameters), flat.flatten()
        empty = content.new_zeros(num_images * num_slots, content.shape[1])
        is_used = torch.full((num_images * num_slots,), self.with_empty_slots, device=flat.device)
        return DenoisingQueries(
            empty.index_copy(0, index, content).view(num_images, num_slots, content.shape[1]),
            box.new_zeros(len(empty), 4)
            .index_copy(0, index, logit(box))
            .view(num_images, num_slots, 4),
            is_used.index_fill(0, index, True).view(num_images, num_slots),
            flat[::2],
        )

    def draw(self, num_people: int, like: Tensor) -> Noise:
        """Noise for M people."""
        rows = 2 * self.num_groups * num_people

        def sign(width: int) -> Tensor:
            return torch.randint(0, 2, (rows, width), device=like.device).float()

        def share(width: int) -> Tensor:
            return torch.rand(rows, width, device=like.device)

        return Noise(sign(4), share(4), sign(82), share(82))

    def _noised(self, labels: SceneLabels, noise: Noise) -> tuple[Tensor, Tensor]:
        """Boxes (2 G M, 4) and parameters (2 G M, 82)."""
        pose = rotmat_to_axis_angle(labels.rotmats).flatten(1)  # (M, 72)
        parameters = torch.cat([pose, labels.betas], dim=1).repeat(2 * self.num_groups, 1)
        center, size = labels.box.repeat(2 * self.num_groups, 1).split(2, dim=1)
        corners = torch.cat([center - size / 2, center + size / 2], dim=1)
        block = torch.arange(2 * self.num_groups, device=pose.device)
        more = (block % 2).repeat_interleave(len(pose))[:, None]  # 1 for those to be rejected
        half = torch.cat([size, size], dim=1) / 2
        amount = (2 * noise.box_sign - 1) * (noise.box + more) * self.box_noise
        corners = (corners + amount * half).clamp(min=0, max=1)
        low, high = corners.split(2, dim=1)
        amount = (2 * noise.parameter_sign - 1) * (noise.parameter + more) * self.parameter_noise
        return torch.cat([(low + high) / 2, high - low], dim=1), parameters + amount


def attention_mask(queries: DenoisingQueries, num_ordinary: int) -> Tensor:
    """Who may look at whom, (I, 1, S + Q, S + Q) bool; the Q ordinary queries come last."""
    num_slots = queries.is_used.shape[1]
    slots_per_group = max(num_slots // len(queries.slot), 1)
    group = torch.arange(num_slots, device=queries.slot.device) // slots_per_group
    group = F.pad(group, (0, num_ordinary), value=-1)  # (S + Q,)
    is_allowed = (group[:, None] == group) | (group == -1)
    is_seen = F.pad(queries.is_used, (0, num_ordinary), value=True)  # (I, S + Q)
    return (is_allowed & is_seen[:, None])[:, None]
