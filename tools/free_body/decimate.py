"""Decimate one half of the mesh by half-edge collapses, so the whole stays exactly symmetric."""

import heapq
from dataclasses import dataclass

import numpy as np

FLIP_COSINE = 0.25  # normals may turn by at most acos of it
FLIP_BODIES = 4
MIN_SHAPE = 0.06  # 2 * area / longest edge^2
MAX_VALENCE = 10
LENGTH_COST = 0.02


@dataclass
class Pass:
    """What one pass may remove and when it stops.

    ``allowed`` (V,) marks removable vertices; with ``is_topological`` only the link condition
    counts. It stops at ``target`` vertices of the whole mesh or when nothing more may go.
    """

    allowed: np.ndarray
    target: int
    is_topological: bool = False


class HalfMesh:
    """The x >= 0 half with its midline as boundary; every collapse u -> v removes vertex u.

    A subset of the original vertices stays, so blendshapes, weights and masks carry over by
    indexing. Costs are quadrics (Garland & Heckbert 1997) summed over several bodies.
    """

    def __init__(
        self, bodies: np.ndarray, faces: np.ndarray, is_mid: np.ndarray, importance: np.ndarray
    ) -> None:
        """Set up from bodies (B, V, 3), half the faces (F, 3) and per-vertex arrays (V,)."""
        self.bodies = bodies.transpose(1, 0, 2).copy()  # (V, B, 3)
        self.is_mid = is_mid
        self.importance = importance
        self.faces = {number: tuple(face) for number, face in enumerate(faces.tolist())}
        self.faces_of = {int(vertex): set() for vertex in np.unique(faces)}
        for number, face in self.faces.items():
            for vertex in face:
                self.faces_of[vertex].add(number)
        self.quadric, self.monomial = self.quadrics(faces)
        self.version = dict.fromkeys(self.faces_of, 0)
        self.num_whole = sum(1 if is_mid[vertex] else 2 for vertex in self.faces_of)

    def quadrics(self, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Area-weighted plane quadrics and monomials (V, B * 10): cost = quadric . monomial.

        Midline vertices also get the quadrics of the mirrored faces.
        """
        num, num_bodies = self.bodies.shape[:2]
        corner = self.bodies[faces]  # (F, 3, B, 3)
        normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        normal = normal / (length + 1e-20)
        plane = np.concatenate([normal, -(normal * corner[:, 0]).sum(-1, keepdims=True)], axis=-1)
        upper = np.triu_indices(4)
        rows = plane[..., upper[0]] * plane[..., upper[1]] * (0.5 * length / num_bodies)
        mirror = np.array([-1.0, 1, 1, 1])
        mirrored = rows * (mirror[upper[0]] * mirror[upper[1]])
        quadric = np.zeros((num, num_bodies, 10))
        for column in range(3):
            np.add.at(quadric, faces[:, column], rows)
            mid = self.is_mid[faces[:, column]]
            np.add.at(quadric, faces[mid, column], mirrored[mid])
        point = np.concatenate([self.bodies, np.ones((num, num_bodies, 1))], axis=-1)
        double = np.where(upper[0] == upper[1], 1, 2)
        monomial = point[..., upper[0]] * point[..., upper[1]] * double
        return quadric.reshape(num, -1), monomial.reshape(num, -1)

    def ring(self, vertex: int) -> set[int]:
        """Neighbours of a vertex."""
        return {other for face in self.faces_of[vertex] for other in self.faces[face]} - {vertex}

    def costs(self, vertex: int, others: np.ndarray) -> np.ndarray:
        """Cost (n,) of collapsing ``vertex`` into each of ``others``."""
        own = self.monomial[others] @ self.quadric[vertex]
        theirs = np.einsum("nk,nk->n", self.monomial[others], self.quadric[others])
        squared = ((self.bodies[others] - self.bodies[vertex]) ** 2).sum(-1)
        error = np.maximum(own + theirs, 0) + LENGTH_COST * (squared**2).mean(-1)
        return self.importance[vertex] * error

    def is_manifold(self, vertex: int, target: int, ring: set[int]) -> bool:
        """Link condition, also across the mirror: no doubled edge, no fold, no chord."""
        shared = self.faces_of[vertex] & self.faces_of[target]
        target_ring = self.ring(target)
        if len(ring & target_ring) != len(shared):
            return False
        if self.is_mid[vertex] and not (self.is_mid[target] and len(shared) == 1):
            return False
        if len(self.faces_of[vertex]) == len(shared):
            return False
        if self.is_mid[target] and not self.is_mid[vertex]:
            fresh = ring - target_ring - {target}
            return not any(self.is_mid[other] for other in fresh)
        return True

    def is_sound(self, vertex: int, target: int, ring: set[int]) -> bool:
        """Valence, shape and orientation of what a collapse leaves."""
        valence = len(ring | self.ring(target)) - 2
        if valence > (MAX_VALENCE // 2 + 1 if self.is_mid[target] else MAX_VALENCE):
            return False
        kept = np.array([self.faces[f] for f in self.faces_of[vertex] - self.faces_of[target]])
        if len(kept) == 0:
            return True
        before = self.bodies[kept]  # (n, 3, B, 3)
        after = self.bodies[np.where(kept == vertex, target, kept)]
        flip = after[:, :, :FLIP_BODIES]
        old, new = self.normals(before[:, :, :FLIP_BODIES]), self.normals(flip)
        lengths = np.linalg.norm(old, axis=-1) * np.linalg.norm(new, axis=-1)
        if ((old * new).sum(-1) < FLIP_COSINE * lengths).any():
            return False
        edges = flip - np.roll(flip, 1, axis=1)
        longest = (edges**2).sum(-1).max(1)
        return bool((np.linalg.norm(new, axis=-1) > MIN_SHAPE * longest).all())

    @staticmethod
    def normals(corner: np.ndarray) -> np.ndarray:
        """Normals of length 2 * area (n, B, 3) of corners (n, 3, B, 3)."""
        return np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])

    def collapse(self, vertex: int, target: int) -> None:
        """Move ``vertex`` to ``target`` and drop the faces they share."""
        for face in list(self.faces_of[vertex]):
            corners = self.faces[face]
            if target in corners:
                for corner in corners:
                    self.faces_of[corner].discard(face)
                del self.faces[face]
            else:
                self.faces[face] = tuple(target if c == vertex else c for c in corners)
                self.faces_of[target].add(face)
        del self.faces_of[vertex]
        self.quadric[target] += self.quadric[vertex]
        self.num_whole -= 1 if self.is_mid[vertex] else 2

    def push(self, heap: list, vertex: int, allowed: np.ndarray) -> None:
        """Queue all collapses of ``vertex`` under its present version."""
        if not allowed[vertex]:
            return
        others = sorted(self.ring(vertex))
        if self.is_mid[vertex]:
            others = [other for other in others if self.is_mid[other]]
        for cost, other in zip(self.costs(vertex, np.array(others)), others, strict=True):
            heapq.heappush(heap, (float(cost), vertex, other, self.version[vertex]))

    def run(self, step: Pass) -> None:
        """Collapse the cheapest edges until the pass is done; blocked ones wait for a change."""
        heap: list = []
        for vertex in sorted(self.faces_of):
            self.push(heap, vertex, step.allowed)
        while heap and self.num_whole > step.target:
            _, vertex, target, version = heapq.heappop(heap)
            if vertex not in self.faces_of or version != self.version[vertex]:
                continue
            if self.num_whole == step.target + 1 and not self.is_mid[vertex]:
                continue
            ring = self.ring(vertex)
            if not self.is_manifold(vertex, target, ring):
                continue
            if not step.is_topological and not self.is_sound(vertex, target, ring):
                continue
            self.collapse(vertex, target)
            for other in sorted(self.ring(target) | {target}):
                self.version[other] += 1
                self.push(heap, other, step.allowed)

    def half_faces(self) -> np.ndarray:
        """The half's faces (F, 3) in original indices."""
        return np.array([self.faces[number] for number in sorted(self.faces)])

    def vertices(self) -> np.ndarray:
        """Remaining vertices of the half, sorted."""
        return np.array(sorted(self.faces_of))


def mirror_faces(faces: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """The whole mesh: half the faces, then their mirror images, turned to keep outside out."""
    return np.concatenate([faces, pair[faces][:, ::-1]])
