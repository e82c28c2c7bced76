"""The vertices that PyMAF's later loops look at.

SMPL: the authors' 431, from ``mesh_downsampling.npz`` or out of their checkpoint. The free body:
the 431 of its own second coarse level, whose vertices are among the 1723 of its first, as SMPL's
are (``tools/make_free_body.py`` makes both). Any other body or number: spread over the rest surface
by farthest-point sampling, in mesh order. The 1723 are a step on the way to the 431; nothing in the
network looks at them.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmrkit.body.pickles import to_array
from hmrkit.body.smpl import SMPL
from hmrkit.data.sources.official import read_arrays


def spread_vertices(body_model: SMPL, num: int) -> Tensor:
    """Numbers (num,) int64 of vertices, rising, no two of them close together.

    The first one is the vertex farthest from the centroid of the mean mesh; then always the one
    farthest from all that have been chosen. A body that brings a coarse level of that size has made
    the choice itself.
    """
    own = body_model.extras.get("level2_vertices", ())
    if len(own) == num:
        return torch.as_tensor(own)
    with torch.no_grad():
        vertices = body_model(body_model.mean_body(1)).vertices[0].cpu().double().numpy()
    chosen = [int(np.linalg.norm(vertices - vertices.mean(axis=0), axis=1).argmax())]
    distance = np.linalg.norm(vertices - vertices[chosen[0]], axis=1)
    while len(chosen) < num:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(vertices - vertices[chosen[-1]], axis=1))
    return torch.tensor(sorted(chosen))


def official_surface(path: str | Path) -> dict[str, Tensor]:
    """``official_vertices`` as weights of ``model.SurfacePoints``, for ``initial_weights``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not that file.
    """
    return {"vertex_index": official_vertices(path)}


def official_vertices(path: str | Path) -> Tensor:
    """Numbers (431,) int64 of SMPL's vertices that ``mesh_downsampling.npz`` keeps.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not that file.
    """
    matrices = read_arrays(Path(path), ["D"], only_needed=True)["D"]
    picks = []
    for matrix in matrices:
        dense = to_array(matrix)
        if not ((dense != 0).sum(axis=1) == 1).all():
            raise ValueError(
                f"{path}: D does not pick one vertex per row; is it the authors' file?"
            )
        picks.append(dense.argmax(axis=1))
    first, second = picks
    return torch.from_numpy(first[second])
