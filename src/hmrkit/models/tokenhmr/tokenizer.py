"""The pose tokenizer: a body pose as 160 of 2048 codes, and back (stage one of TokenHMR).

    rotations (P, 21, 3, 3) -> first two rows (P, 21, 6) -> encoder -> vectors (P, 160, 256)
    vectors -> nearest code (P, 160) -> codes (P, 160, 256) -> decoder -> (P, 21, 6) -> rotations

The 21 joints are SMPL's without the root and the hands. A 6D rotation here is the first two *rows*
of the matrix, unlike in the rest of this project's stacked form. In stage two the decoder and the
codebook are frozen, and codes are mixed by their predicted probabilities instead of looked up.
"""

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from hmrkit.body.smpl import SMPL
from hmrkit.geometry.rotations import rot6d_stacked_to_rotmat
from hmrkit.types import Batch, Body, Prediction

NUM_JOINTS = 21  # of the body pose, without hands
_NUM_UPSAMPLED = 40  # length of the joint axis after the first upsampling
_MIN_COUNT = 1.0  # a code that stands for fewer vectors is replaced


class Quantized(NamedTuple):
    """Vectors on the codebook."""

    codes: Tensor  # (P, T, C) the nearest codes; gradients pass straight through to the vectors
    index: Tensor  # (P, T) int64
    commitment: Tensor  # () mean squared distance of the vectors to their codes
    perplexity: Tensor  # () effective number of codes in use


class PoseTokenizer(nn.Module):
    """Body poses to codes and back.

    Args:
        num_codes: size of the codebook.
        code_dim: width C of a code.
        width: channels of the convolutions.
        num_doublings: of the encoder's joint axis after it has 40 places; the last convolution
            halves it, so there are ``20 * 2**num_doublings`` tokens.
        num_residual: residual blocks in encoder and decoder.
        num_upsamplings: steps of the decoder from the tokens to the 21 joints.
        decay: of the moving averages that the codebook follows in training.
    """

    def __init__(
        self,
        num_codes: int = 2048,
        code_dim: int = 256,
        width: int = 512,
        num_doublings: int = 3,
        num_residual: int = 2,
        num_upsamplings: int = 4,
        decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.num_tokens = _NUM_UPSAMPLED // 2 * 2**num_doublings
        self.encoder = Encoder(code_dim, width, num_doublings, num_residual)
        self.quantizer = Quantizer(num_codes, code_dim, decay)
        self.decoder = Decoder(code_dim, width, self.num_tokens, num_upsamplings, num_residual)

    def forward(self, body_pose: Tensor) -> tuple[Tensor, Quantized]:
        """Rotations (P, 21, 3, 3) to what is left of them, 6D (P, 21, 6), and the codes."""
        quantized = self.quantizer(self.encode(body_pose))
        return self.decode(quantized.codes), quantized

    def encode(self, body_pose: Tensor) -> Tensor:
        """Rotations (P, 21, 3, 3) to vectors (P, T, C)."""
        return self.encoder(rotmat_to_rows6d(body_pose))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (P, T, C) to 6D rotations (P, 21, 6), the first two rows of each matrix."""
        return self.decoder(codes)

    def decode_probabilities(self, probabilities: Tensor) -> Tensor:
        """Probabilities of the codes (P, T, num_codes) to 6D rotations (P, 21, 6)."""
        return self.decode(probabilities @ self.quantizer.codebook)


class PoseAutoencoder(nn.Module):
    """The tokenizer as a network of its own, for stage one: labelled poses to what is left of them.

    Args:
        tokenizer: what is trained.
        body_model: not used; every network of this project is offered it.
    """

    def __init__(self, tokenizer: PoseTokenizer, body_model: SMPL) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, batch: Batch, body_model: SMPL) -> Prediction:
        """What is left of the labelled poses after coding; root, hands and shape are the labels'.

        Args:
            batch: reads ``body``; poses need no image.
            body_model: not used.

        Returns:
            ``body``; ``extra`` holds ``code_index`` (P, T), ``commitment`` and ``perplexity`` ().
        """
        label = batch["body"]
        rot6d, quantized = self.tokenizer(label.body_pose[:, :NUM_JOINTS])
        hands = label.body_pose[:, NUM_JOINTS:]
        body_pose = torch.cat([rows6d_to_rotmat(rot6d.float()), hands], dim=1)
        return Prediction(
            body=Body(label.global_orient, body_pose, label.betas, label.transl),
            transl_cam=label.transl[:0],
            intrinsics_crop=label.global_orient[:0],
            extra={
                "code_index": quantized.index,
                "commitment": quantized.commitment,
                "perplexity": quantized.perplexity,
            },
        )


def rotmat_to_rows6d(rotmat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) to their first two rows (..., 6)."""
    return rotmat[..., :2, :].flatten(-2)


def rows6d_to_rotmat(rot6d: Tensor) -> Tensor:
    """6D (..., 6), two rows one after the other, to rotation matrices (..., 3, 3)."""
    return rot6d_stacked_to_rotmat(rot6d).transpose(-1, -2)


class Encoder(nn.Module):
    """6D rotations to vectors: convolutions along the joints, on a longer and longer axis."""

    def __init__(self, code_dim: int, width: int, num_doublings: int, num_residual: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, width, 3, padding=1)
        self.upsampled = nn.ModuleList(
            nn.Conv1d(width, width, 3, padding=1) for _ in range(num_doublings + 1)
        )
        self.halve = nn.Conv1d(width, width, 4, stride=2, padding=1)
        self.residual = nn.Sequential(*_residual_blocks(width, num_residual))
        self.last = nn.Conv1d(width, code_dim, 3, padding=1)

    def forward(self, rot6d: Tensor) -> Tensor:
        """(P, 21, 6) to (P, T, C)."""
        hidden = F.relu(self.first(rot6d.transpose(1, 2)))  # (P, width, 21)
        for i, convolution in enumerate(self.upsampled):
            hidden = F.interpolate(hidden, size=_NUM_UPSAMPLED * 2**i)  # nearest
            hidden = F.relu(convolution(hidden))
        return self.last(self.residual(self.halve(hidden))).transpose(1, 2)


class Decoder(nn.Module):
    """Codes to 6D rotations: convolutions on a shorter and shorter axis."""

    def __init__(
        self, code_dim: int, width: int, num_tokens: int, num_upsamplings: int, num_residual: int
    ) -> None:
        super().__init__()
        step = (num_tokens - NUM_JOINTS) / num_upsamplings
        lengths = [int(NUM_JOINTS + i * step) for i in range(num_upsamplings)]
        self.lengths = lengths[::-1]  # 125, 90, 55, 21 of 160
        self.first = nn.Conv1d(code_dim, width, 3, padding=1)
        self.resampled = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in self.lengths)
        self.residual = nn.Sequential(*_residual_blocks(width, num_residual))
        self.middle = nn.Conv1d(width, width, 3, padding=1)
        self.last = nn.Conv1d(width, 6, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """(P, T, C) to (P, 21, 6)."""
        hidden = F.relu(self.first(codes.transpose(1, 2)))  # (P, width, T)
        for length, convolution in zip(self.lengths, self.resampled, strict=True):
            hidden = F.relu(convolution(F.interpolate(hidden, size=length)))  # nearest
        return self.last(self.middle(self.residual(hidden))).transpose(1, 2)


def _residual_blocks(width: int, num: int) -> list[nn.Module]:
    """The widest view first: dilations 3 ** (num - 1), ..., 3, 1."""
    return [ResidualBlock(width, 3**i) for i in reversed(range(num))]


class ResidualBlock(nn.Module):
    """Two convolutions behind ReLUs, added to the input."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv1d(width, width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(P, width, T) to the same."""
        return hidden + self.conv2(F.relu(self.conv1(F.relu(hidden))))


class Quantizer(nn.Module):
    """A codebook that follows the encoder's vectors by moving averages.

    In training every call updates it, after the codes have been chosen: each code becomes the
    average of the vectors it stood for, and codes that stand for fewer than one vector are put on
    vectors of the batch. The first training batch makes the codebook. The averages are saved with
    it, so a resumed run goes on where it stopped. Processes that train together share one codebook.
    """

    def __init__(self, num_codes: int, code_dim: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", torch.zeros(num_codes, code_dim))
        self.register_buffer("code_sum", torch.zeros(num_codes, code_dim))
        self.register_buffer("code_count", torch.zeros(num_codes))

    def forward(self, vectors: Tensor) -> Quantized:
        """Vectors (P, T, C) to their nearest codes."""
        flat = vectors.detach().flatten(0, 1).float()  # (P * T, C)
        if self.training and not self.code_count.any():
            self._start(flat)
        index = self.nearest(flat)
        usage = self.usage(index)
        codes = self.codebook[index].view_as(vectors)
        if self.training:
            self.update(flat, index)
        commitment = (vectors - codes).square().mean()
        passed = vectors + (codes - vectors).detach()
        return Quantized(passed, index.view(vectors.shape[:2]), commitment, perplexity(usage))

    def nearest(self, flat: Tensor) -> Tensor:
        """Vectors (N, C) to the numbers (N,) of their nearest codes."""
        return torch.addmm(
            self.codebook.square().sum(dim=1), flat, self.codebook.T, beta=1, alpha=-2
        ).argmin(dim=1)

    def usage(self, index: Tensor) -> Tensor:
        """How many vectors (num_codes,) each code stands for."""
        return torch.bincount(index, minlength=len(self.codebook)).to(self.codebook.dtype)

    @torch.no_grad()
    def update(self, flat: Tensor, index: Tensor) -> None:
        """Move the averages, and the codes with them, towards the vectors (N, C) of a batch."""
        total = torch.zeros_like(self.codebook).index_add_(0, index, flat)
        usage = self.usage(index)
        if _has_peers():
            distributed.all_reduce(total)
            distributed.all_reduce(usage)
        self.code_sum.lerp_(total, 1 - self.decay)
        self.code_count.lerp_(usage, 1 - self.decay)
        is_used = (self.code_count >= _MIN_COUNT)[:, None]
        average = self.code_sum / self.code_count.clamp(min=_MIN_COUNT)[:, None]
        self.codebook.copy_(torch.where(is_used, average, self._enough(flat)))

    @torch.no_grad()
    def _start(self, flat: Tensor) -> None:
        self.codebook.copy_(self._enough(flat))
        self.code_sum.copy_(self.codebook)
        self.code_count.fill_(1.0)

    def _enough(self, flat: Tensor) -> Tensor:
        """The first vectors, one per code; too few are repeated with a little noise."""
        num_codes, code_dim = self.codebook.shape
        flat = flat[:num_codes].contiguous()
        if _has_peers():  # the first ones of the first process, as one process would have them
            parts = [torch.empty_like(flat) for _ in range(distributed.get_world_size())]
            distributed.all_gather(parts, flat)
            flat = torch.cat(parts)
        if len(flat) < num_codes:
            repeated = flat.repeat(-(-num_codes // len(flat)), 1)
            flat = repeated + torch.randn_like(repeated) * 0.01 / code_dim**0.5
        return flat[:num_codes]


def _has_peers() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def perplexity(usage: Tensor) -> Tensor:
    """The exponential of the entropy of how often (num_codes,) each code is used."""
    share = usage / usage.sum()
    return torch.exp(-(share * torch.log(share + 1e-7)).sum())
