"""Close mouth and eye sockets by membranes and smooth the chest: one sparse matrix for all."""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from free_body.skeleton import cube_centre, mesh_edges
from free_body.source import Source

CELL = 0.003  # of the grid in the visibility test
TOLERANCE = 0.0001  # triangles nearer than this do not hide a vertex


def triangles(quads: np.ndarray, positions: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Split quads (F, 4) along the shorter diagonal, alike on both sides; (2F, 3)."""
    corner = positions[quads]
    first = np.linalg.norm(corner[:, 0] - corner[:, 2], axis=1)
    second = np.linalg.norm(corner[:, 1] - corner[:, 3], axis=1)
    key = np.sort(quads, axis=1)
    mirror_key = np.sort(pair[quads], axis=1)
    order = {tuple(row): number for number, row in enumerate(key.tolist())}
    partner = np.array([order[tuple(row)] for row in mirror_key.tolist()])
    is_left = positions[quads, 0].mean(1) > 0
    # the left quad decides which corner pair is joined; its partner joins their mirror images
    decider = np.where(is_left, np.arange(len(quads)), partner)
    use_first = (first <= second)[decider]
    ends = np.where(use_first[:, None], quads[decider][:, [0, 2]], quads[decider][:, [1, 3]])
    ends = np.where(is_left[:, None], ends, pair[ends])
    starts_at_first = (quads[:, :1] == ends).any(1)
    rolled = np.where(starts_at_first[:, None], quads, np.roll(quads, -1, axis=1))
    return np.concatenate([rolled[:, [0, 1, 2]], rolled[:, [0, 2, 3]]])


def directions(num: int) -> np.ndarray:
    """Evenly spread unit vectors (num, 3) (golden spiral)."""
    height = 1 - (2 * np.arange(num) + 1) / num
    angle = np.arange(num) * np.pi * (3 - np.sqrt(5))
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(angle), height, radius * np.sin(angle)], axis=1)


def points_in_cells(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (face, point) that share a cell of the grid over x and y; candidates for a hit."""
    cells = ((points[:, :2] - points[:, :2].min(0)) / CELL).astype(int)
    width, height = cells.max(0) + 1
    flat = cells[:, 1] * width + cells[:, 0]
    order = np.argsort(flat, kind="stable")
    start = np.searchsorted(flat[order], np.arange(width * height + 1))
    low, high = cells[faces].min(1), cells[faces].max(1)
    size = high - low + 1
    count = size[:, 0] * size[:, 1]
    face = np.repeat(np.arange(len(faces)), count)
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    cell = (low[face, 1] + offset // size[face, 0]) * width + low[face, 0] + offset % size[face, 0]
    inside = start[cell + 1] - start[cell]
    step = np.arange(inside.sum()) - np.repeat(np.cumsum(inside) - inside, inside)
    return np.repeat(face, inside), order[np.repeat(start[cell], inside) + step]


def hidden_along_z(points: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks (V,) of points under some triangle, and above some, looking along the z axis.

    Args:
        points: (V, 3) in the view's frame.
        faces: (F, 3); those at a point itself do not hide it.
    """
    face, point = points_in_cells(points, faces)
    is_other = (faces[face] != point[:, None]).all(1)
    face, point = face[is_other], point[is_other]
    corner = points[faces]
    edge1, edge2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0]
    inverse = (1 / np.where(np.abs(area) < 1e-12, np.inf, area))[face]
    offset = points[point] - corner[face, 0]
    second = (offset[:, 0] * edge2[face, 1] - offset[:, 1] * edge2[face, 0]) * inverse
    third = (edge1[face, 0] * offset[:, 1] - edge1[face, 1] * offset[:, 0]) * inverse
    hit = (second >= 0) & (third >= 0) & (second + third <= 1) & (inverse != 0)
    rise = second * edge1[face, 2] + third * edge2[face, 2] - offset[:, 2]
    below, above = np.zeros(len(points), bool), np.zeros(len(points), bool)
    below[point[hit & (rise > TOLERANCE)]] = True
    above[point[hit & (rise < -TOLERANCE)]] = True
    return below, above


def never_visible(source: Source, body: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Skin vertices (bool (skin,)) of the head that no one of 160 directions sees.

    Eyeballs hide too. Each view serves two opposite directions, and by symmetry each direction
    its mirror image, so 40 views do. Trunk and limbs have no pockets.
    """
    chin = cube_centre(source, body, "neck")[1]
    eyes = [source.group_faces[f"helper-{side}-eye"] for side in "lr"]
    halves = [eye[:, corners] for eye in eyes for corners in ([0, 1, 2], [0, 2, 3])]
    hides = np.concatenate([faces, *halves])
    hides = hides[(body[hides, 1] > chin).any(1)]
    used, hides = np.unique(hides, return_inverse=True)
    hides = hides.reshape(-1, 3)
    seen = np.ones(len(body), bool)
    seen[used] = False
    views = directions(160)
    for axis in views[(views[:, 0] > 0) & (views[:, 2] > 0)]:
        across = np.cross(axis, [0, 1, 0]) / np.linalg.norm(np.cross(axis, [0, 1, 0]))
        points = body[used] @ np.stack([across, np.cross(axis, across), axis], axis=1)
        below, above = hidden_along_z(points, hides)
        seen[used] |= ~below | ~above
    seen |= seen[source.pair]
    return ~seen[: source.num_skin]


def find_pockets(
    source: Source, body: np.ndarray, faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertex ids of the mouth, the left and the right eye socket.

    The mouth takes one ring more, so that the lips meet; the sockets one less, so that the lids
    keep their edge.
    """
    hidden = never_visible(source, body, faces)
    edges = mesh_edges(source.quads)
    inner = edges[hidden[edges].all(1)]
    num = source.num_skin
    graph = sparse.coo_matrix((np.ones(len(inner)), inner.T), shape=(num, num))
    label = connected_components(graph, directed=False)[1]
    parts = [np.flatnonzero(label == part) for part in np.argsort(-np.bincount(label))[:3]]
    parts.sort(key=lambda part: body[part, 0].mean())
    right, mouth, left = parts
    mouth = grow(mouth, edges, num)
    outside = [np.setdiff1d(np.arange(num), socket) for socket in (left, right)]
    left, right = (np.setdiff1d(np.arange(num), grow(rest, edges, num)) for rest in outside)
    return mouth, left, right


def grow(region: np.ndarray, edges: np.ndarray, num: int) -> np.ndarray:
    """A region and one ring more."""
    inside = np.zeros(num, bool)
    inside[region] = True
    grown = inside.copy()
    grown[edges[inside[edges].any(1)].ravel()] = True
    return np.flatnonzero(grown)


def harmonic_fill(edges: np.ndarray, region: np.ndarray, num: int) -> sparse.csr_matrix:
    """Rows (region, num) that put a region on the membrane through its rim (graph Laplace)."""
    ones = np.ones(len(edges))
    graph = sparse.coo_matrix((ones, edges.T), shape=(num, num)).tocsr()
    graph = graph + graph.T
    laplace = (sparse.diags(graph.sum(1).A1) - graph).tocsc()[region]
    outside = np.ones(num, bool)
    outside[region] = False
    keep = sparse.diags(outside.astype(float))
    return sparse.csr_matrix(spsolve(laplace[:, region].tocsc(), -(laplace @ keep).tocsc()))


def closest_on_triangles(points: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest triangle (n,) and barycentrics (n, 3) for points (n, 3) on corners (F, 3, 3).

    Clamped coordinates: exact inside a triangle, within a small triangle's size on its border.
    """
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = points[:, None] - corners[:, 0]
    a, b, c = (edge1**2).sum(1), (edge1 * edge2).sum(1), (edge2**2).sum(1)
    d, e = (offset * edge1).sum(2), (offset * edge2).sum(2)
    determinant = a * c - b * b + 1e-20
    second = np.clip((c * d - b * e) / determinant, 0, 1)
    third = np.clip((a * e - b * d) / determinant, 0, 1)
    total = np.maximum(second + third, 1)
    weights = np.stack([1 - (second + third) / total, second / total, third / total], axis=2)
    nearest = np.linalg.norm((weights[..., None] * corners).sum(2) - points[:, None], axis=2)
    best = nearest.argmin(1)
    return best, weights[np.arange(len(points)), best]


def eye_membrane(
    source: Source, body: np.ndarray, fill: sparse.csr_matrix, side: str
) -> sparse.csr_matrix:
    """Rows (socket, 19158) that move a socket's flat membrane to the front of the eyeball."""
    quads = source.group_faces[f"helper-{side}-eye"]
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    corners = body[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    faces = faces[(normal[:, 2] > 0) & (np.linalg.norm(normal, axis=1) > 1e-10)]
    best, weights = closest_on_triangles(fill @ body[: source.num_skin], body[faces])
    rows = np.repeat(np.arange(len(best)), 3)
    shape = (len(best), len(source.vertices))
    return sparse.csr_matrix((weights.ravel(), (rows, faces[best].ravel())), shape=shape)


def chest_region(source: Source, edges: np.ndarray) -> np.ndarray:
    """The detail on the chest, its mirror image and one ring more."""
    both = np.concatenate([source.chest_detail, source.pair[source.chest_detail]])
    return grow(both, edges, source.num_skin)


def skin_map(source: Source, body: np.ndarray, pockets: tuple) -> sparse.csr_matrix:
    """Matrix (skin, 19158) from MakeHuman's vertices to the closed, plain skin.

    Linear, so it serves every body. ``body`` (19158, 3) is the mean, ``pockets`` mouth, left and
    right socket.
    """
    num, total = source.num_skin, len(source.vertices)
    edges = mesh_edges(source.quads)
    mouth, left, _ = pockets
    matrix = sparse.identity(total, format="lil")[:num].tocsr()

    def replace(region: np.ndarray, rows: sparse.csr_matrix) -> None:
        nonlocal matrix
        keep = np.ones(num)
        keep[region] = 0
        place = sparse.csr_matrix(
            (np.ones(len(region)), (region, np.arange(len(region)))), shape=(num, len(region))
        )
        rows = sparse.hstack([rows, sparse.csr_matrix((len(region), total - rows.shape[1]))])
        matrix = sparse.diags(keep) @ matrix + place @ rows

    for region in (mouth, chest_region(source, edges)):
        replace(region, harmonic_fill(edges, region, num))
    eye = eye_membrane(source, body, harmonic_fill(edges, left, num), "l")
    replace(left, eye)
    replace(source.pair[left], eye[:, source.pair])
    return matrix.tocsr()


def near(points: np.ndarray, centres: np.ndarray, radius: float) -> np.ndarray:
    """Mask (V,) of points within ``radius`` of any centre."""
    return cKDTree(centres).query(points)[0] < radius
