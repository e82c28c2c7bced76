"""Forward kinematics and linear blend skinning (SMPL, Loper et al. 2015, equations 2 to 9).

Rest positions are channel first, (P, 3, n); a bone transform is a (3, 4) block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

_CPU_CHUNK = (
    4  # bodies whose vertex transforms fit a core's cache (1.3 MB); measured best of 1 to 16
)
_DEVICE_CHUNK = 256  # bounds the memory of the transforms to 85 MB on accelerators


def tree_levels(parents: Sequence[int]) -> list[list[int]]:
    """Joints by depth in the kinematic tree; joint 0 is the root and parents come first."""
    depth = [0]
    for joint in range(1, len(parents)):
        assert 0 <= parents[joint] < joint
        depth.append(depth[parents[joint]] + 1)
    return [[j for j, d in enumerate(depth) if d == level] for level in range(max(depth) + 1)]


def forward_kinematics(
    rotations: Tensor, offsets: Tensor, levels: Sequence[tuple[Tensor, Tensor]], order: Tensor
) -> Tensor:
    """Global transforms of all joints, one tree level at a time.

    Args:
        rotations: (P, J, 3, 3) relative to the parent.
        offsets: (P, J, 3) rest position relative to the parent's; of the root, absolute.
        levels: per level below the root its joints and their parents' places in the level above.
        order: (J,) position of each joint in the concatenated levels.

    Returns:
        (P, J, 3, 4) rotation and posed position.
    """
    local = torch.cat([rotations, offsets.unsqueeze(-1)], dim=-1)  # (P, J, 3, 4)
    above = local[:, :1]
    done = [above]
    for joints, parents in levels:
        parent = above.index_select(1, parents)
        moved = parent[..., :3] @ local.index_select(1, joints)  # (P, n, 3, 4)
        above = torch.cat([moved[..., :3], moved[..., 3:] + parent[..., 3:]], dim=-1)
        done.append(above)
    return torch.cat(done, dim=1).index_select(1, order)


def skin(transforms: Tensor, weights: Tensor, points: Tensor, mass: Tensor | None = None) -> Tensor:
    """Blend bone transforms and apply them to rest positions, in plain differentiable operations.

    Args:
        transforms: (P, 3, 4, J) bone transforms that act on rest positions.
        weights: (J, n) skinning weights.
        points: (P, 3, n) rest positions.
        mass: (n,) how often a point's translation counts; once if not given.

    Returns:
        (P, n, 3) posed positions.
    """
    blended = transforms @ weights  # (P, 3, 4, n)
    shift = blended[:, :, 3] if mass is None else blended[:, :, 3] * mass
    return ((blended[:, :, :3] * points.unsqueeze(1)).sum(2) + shift).transpose(1, 2)


def skin_mesh(transforms: Tensor, weights: Tensor, points: Tensor) -> Tensor:
    """``skin`` for many points: the same numbers with a fraction of the memory traffic."""
    if torch.compiler.is_compiling():  # a compiler fuses the plain form itself
        return skin(transforms, weights, points)
    return _Skin.apply(transforms, weights, points)


class _Skin(torch.autograd.Function):
    """``skin`` without the (P, 3, 4, n) blended transforms: blends chunks of bodies, twice.

    The backward pass blends again, which is cheaper than writing and reading them. It runs in plain
    operations when a graph of it is wanted, so second derivatives exist.
    """

    @staticmethod
    def forward(transforms: Tensor, weights: Tensor, points: Tensor) -> Tensor:
        out = points.new_empty(len(points), points.shape[2], 3)
        for part in _chunks(points):
            blended, rest = transforms[part] @ weights, points[part].unsqueeze(1)
            posed = torch.addcmul(blended[:, :, 3], blended[:, :, 0], rest[:, :, 0])  # (p, 3, n)
            posed.addcmul_(blended[:, :, 1], rest[:, :, 1])
            posed.addcmul_(blended[:, :, 2], rest[:, :, 2])
            out[part] = posed.transpose(1, 2)
        return out

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        transforms, weights, points = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            if torch.is_grad_enabled():
                return _differentiable_backward(transforms, weights, points, grad)
            return _chunked_backward(transforms, weights, points, grad)


def _differentiable_backward(
    transforms: Tensor, weights: Tensor, points: Tensor, grad: Tensor
) -> tuple[Tensor, None, Tensor]:
    grad = grad.transpose(1, 2).unsqueeze(2)  # (P, 3, 1, n)
    moment = torch.cat([grad * points.unsqueeze(1), grad], dim=2)  # (P, 3, 4, n)
    blended = transforms[:, :, :3] @ weights  # (P, 3, 3, n)
    return moment @ weights.t(), None, (blended * grad).sum(1)


def _chunked_backward(
    transforms: Tensor, weights: Tensor, points: Tensor, grad: Tensor
) -> tuple[Tensor, None, Tensor]:
    grad_transforms, grad_points = torch.empty_like(transforms), torch.empty_like(points)
    num_bones, num_points = weights.shape
    for part in _chunks(points):
        towards = grad[part].transpose(1, 2).contiguous()  # (p, 3, n)
        moment = points.new_empty(len(towards), 3, 4, num_points)
        torch.mul(towards.unsqueeze(2), points[part].unsqueeze(1), out=moment[:, :, :3])
        moment[:, :, 3] = towards
        summed = weights @ moment.view(-1, num_points).t()  # (J, 12 p); this order is the faster
        grad_transforms[part] = summed.t().view(-1, 3, 4, num_bones)
        turns = transforms[part, :, :3].reshape(-1, num_bones)  # (9 p, J)
        blended = (turns @ weights).view(-1, 3, 3, num_points)
        pulled = torch.mul(blended[:, 0], towards[:, 0, None], out=grad_points[part])
        pulled.addcmul_(blended[:, 1], towards[:, 1, None])
        pulled.addcmul_(blended[:, 2], towards[:, 2, None])
    return grad_transforms, None, grad_points


def _chunks(points: Tensor) -> list[slice]:
    step = _CPU_CHUNK if points.device.type == "cpu" else _DEVICE_CHUNK
    return [slice(start, start + step) for start in range(0, len(points), step)]
