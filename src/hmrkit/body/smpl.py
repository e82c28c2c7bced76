"""A body of the SMPL family: parameters to mesh, to joints, or to a few vertices.

Vertices ``M = W(T + B_S(betas) + B_P(pose), J(betas), pose)`` as in SMPL (Loper et al. 2015,
equations 6 to 10). Whoever needs only joints should ask for joints: they cost a fraction of a mesh.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmrkit.body import joints, skinning
from hmrkit.types import Body, Mesh

NUM_SMPL_VERTICES = 6890  # the mesh that the landmarks of joints.py belong to


@dataclass
class BodyData:
    """A body as arrays, metres, rest pose; J joints, V vertices. Immutable by convention."""

    name: str
    v_template: np.ndarray  # (V, 3) float32
    shapedirs: np.ndarray  # (V, 3, 10) float32
    posedirs: np.ndarray  # (V, 3, 9 * (J - 1)) float32
    weights: np.ndarray  # (V, J) float32
    J_regressor: np.ndarray  # (J, V) float32
    faces: np.ndarray  # (F, 3) int64
    parents: np.ndarray  # (J,) int64, the root's is -1
    mean_pose: np.ndarray  # (J, 3, 3) float32 rotation matrices, upright in a camera frame
    mean_betas: np.ndarray  # (10,) float32
    # (9, V) float32, SPIN's file of that name, or (19, V): all of spin44 that is not OpenPose's
    J_regressor_extra: np.ndarray | None = None
    J_regressor_h36m: np.ndarray | None = None  # (17, V) float32
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)  # see body/free.py


def _without_autocast(method: Callable) -> Callable:
    """Run in the body's own precision: bfloat16 moves vertices by up to a centimetre."""

    @functools.wraps(method)
    def run(self: "SMPL", *args: Any) -> Any:
        kind = self.mean_pose.device.type
        if not torch.is_autocast_enabled(kind):  # a context would end up in exported graphs
            return method(self, *args)
        with torch.autocast(kind, enabled=False):
            return method(self, *args)

    return run


class SMPL(nn.Module):
    """Posed bodies from ``Body``. Has no parameters and saves nothing in checkpoints.

    Computes in float32, also under autocast and after ``.half()`` or ``.bfloat16()`` of a network
    that holds it; in float64 after ``.double()``. Differentiable any number of times.

    Args:
        data: the body.

    Attributes:
        name: of the body.
        num_vertices: V.
        faces: (F, 3) int64.
        mean_pose: (24, 3, 3) rotation matrices.
        mean_betas: (10,).
        extras: what else is known about the mesh, arrays by name (``body/free.py``).
    """

    def __init__(self, data: BodyData) -> None:
        super().__init__()
        self.name, self.extras = data.name, data.extras
        self.num_vertices = len(data.v_template)
        shape, pose = data.shapedirs, data.posedirs
        rows = np.concatenate([shape, pose], axis=2, dtype=np.float32).transpose(1, 0, 2)
        rest = np.einsum("jv,vcb->bjc", data.J_regressor, np.dstack([shape, data.v_template]))
        joint_dirs, joint_template = rest[:-1].reshape(len(rest) - 1, -1), rest[-1]
        parents = [int(parent) for parent in data.parents]
        levels = skinning.tree_levels(parents)
        buffers = {
            "faces": data.faces.astype(np.int64),
            "mean_pose": data.mean_pose,
            "mean_betas": data.mean_betas,
            "_template": data.v_template.T.reshape(-1),  # (3V,)
            "_blend": rows.reshape(-1, rows.shape[2]).T,  # (10 + 9 (J - 1), 3V)
            "_blend_rows": rows,  # (3, V, 10 + 9 (J - 1)): the same, for picking vertices
            # rounded weights do not sum to 1 exactly, so transl is one more bone, of weight 1
            "_weights": np.vstack([data.weights.T, np.ones(self.num_vertices)]),  # (J + 1, V)
            "_regressed_from": np.flatnonzero(data.J_regressor.any(axis=0)),  # (n,) vertices
            "_joint_regressor": data.J_regressor[:, data.J_regressor.any(axis=0)],  # (J, n)
            "_joint_template": joint_template,  # (J, 3)
            "_joint_dirs": joint_dirs,  # (10, 3J)
            "_parents": np.array([0, *parents[1:]]),
            "_is_child": np.array([0.0, *[1.0] * (len(parents) - 1)])[:, None],
            "_order": np.argsort(np.concatenate(levels)),
        }
        for depth in range(1, len(levels)):
            above = [levels[depth - 1].index(parents[joint]) for joint in levels[depth]]
            buffers |= {f"_level{depth}": np.array([levels[depth], above])}
        self._num_levels = len(levels)
        _register(self, buffers)
        self._readers = nn.ModuleDict(_joint_readers(data))
        self._mean_mesh: Mesh | None = None

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        """Follow moves to a device or to float64, never to a half precision."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            is_half = moved.is_floating_point() and moved.element_size() < 4
            return tensor.to(moved.device) if is_half else moved

        self._mean_mesh = None
        return super()._apply(at_least_float32, recurse)

    @_without_autocast
    def forward(self, body: Body) -> Mesh:
        """Pose the whole mesh.

        Args:
            body: P bodies; P may be 0.

        Returns:
            Vertices (P, V, 3) and joints (P, 24, 3), metres.
        """
        features, transforms, posed_joints = self._pose(body)
        rest = torch.addmm(self._template, features, self._blend)  # (P, 3V)
        rest = rest.view(len(features), 3, self.num_vertices)
        return Mesh(skinning.skin_mesh(transforms, self._weights, rest), posed_joints)

    @_without_autocast
    def joints(self, body: Body, joint_set: str = "smpl24") -> Tensor:
        """Pose joints without posing the mesh; equal to those of the mesh.

        Args:
            body: P bodies.
            joint_set: a name of ``body/joints.py``.

        Returns:
            (P, K, 3) metres.

        Raises:
            ValueError: if there is no such set, or the body lacks what the set needs.
        """
        features, transforms, posed_joints = self._pose(body)
        if joint_set == "smpl24":
            return posed_joints
        return self._reader(joint_set)(features, transforms, posed_joints)

    @_without_autocast
    def vertices(self, body: Body, index: Tensor) -> Tensor:
        """Pose some vertices only.

        Args:
            body: P bodies.
            index: (n,) int64 vertex numbers.

        Returns:
            (P, n, 3) metres.
        """
        features, transforms, _ = self._pose(body)
        blend = self._blend_rows.index_select(1, index).flatten(0, 1)  # (3n, 217)
        template = self._template.view(3, -1).index_select(1, index)
        rest = torch.addmm(template.flatten(), features, blend.t())
        rest = rest.view(len(features), 3, len(index))
        return skinning.skin(transforms, self._weights.index_select(1, index), rest)

    @_without_autocast
    def joints_from_mesh(self, mesh: Mesh, joint_set: str) -> Tensor:
        """Joints of posed meshes.

        Args:
            mesh: P meshes.
            joint_set: a name of ``body/joints.py``.

        Returns:
            (P, K, 3) in the mesh's frame, metres.

        Raises:
            ValueError: if there is no such set, or the body lacks what the set needs.
        """
        if joint_set == "smpl24":
            return mesh.joints
        return self._reader(joint_set).read(mesh)

    @_without_autocast
    def regress_joints(self, vertices: Tensor) -> Tensor:
        """SMPL's joints as its joint regressor reads them off posed meshes.

        Not quite where the skeleton has them; EMDB is scored with these (TokenHMR).

        Args:
            vertices: (P, V, 3).

        Returns:
            (P, J, 3) in the meshes' frame.
        """
        read = vertices.index_select(1, self._regressed_from).to(self._joint_regressor.dtype)
        return self._joint_regressor @ read

    def mean_body(self, num: int) -> Body:
        """``num`` bodies (P = num) in the mean pose and shape at the origin."""
        pose = self.mean_pose.expand(num, -1, -1, -1)
        betas = self.mean_betas.expand(num, -1)
        return Body(pose[:, 0], pose[:, 1:], betas, betas.new_zeros(num, 3))

    def mean_mesh(self) -> Mesh:
        """The mean body's mesh (1, V, 3), posed once."""
        if self._mean_mesh is None:
            with torch.inference_mode(False), torch.no_grad():
                self._mean_mesh = self(self.mean_body(1))
        return self._mean_mesh

    def _pose(self, body: Body) -> tuple[Tensor, Tensor, Tensor]:
        """Blend features (P, 217), bone transforms (P, 3, 4, J + 1), posed joints (P, J, 3)."""
        dtype = self._template.dtype
        body_pose, betas, transl = (x.to(dtype) for x in (body.body_pose, body.betas, body.transl))
        rotations = torch.cat([body.global_orient.to(dtype).unsqueeze(1), body_pose], dim=1)
        rest = self._joint_template + (betas @ self._joint_dirs).unflatten(1, (-1, 3))
        offsets = rest - rest.index_select(1, self._parents) * self._is_child
        levels = [getattr(self, f"_level{depth}") for depth in range(1, self._num_levels)]
        posed = skinning.forward_kinematics(rotations, offsets, levels, self._order)
        turn, place = posed[..., :3], posed[..., 3]
        shift = place - (turn @ rest.unsqueeze(-1)).squeeze(-1)
        bones = torch.cat([turn, shift.unsqueeze(-1)], dim=-1)  # (P, J, 3, 4)
        transl = transl.unsqueeze(1)  # (P, 1, 3)
        bones = torch.cat([bones, F.pad(transl.unsqueeze(-1), (3, 0))], dim=1)
        identity = torch.eye(3, dtype=dtype, device=betas.device)
        features = torch.cat([betas, (body_pose - identity).flatten(1)], dim=1)
        return features, bones.permute(0, 2, 3, 1).contiguous(), place + transl

    def _reader(self, joint_set: str) -> "_JointReader":
        if joint_set in self._readers:
            return self._readers[joint_set]
        kinds = {joints.SOURCES[name].kind for name in joints.names(joint_set)}
        missing = " and ".join(_NEEDS[kind] for kind in sorted(kinds & _NEEDS.keys()))
        raise ValueError(
            f"joint set {joint_set!r} needs {missing}, and the body {self.name!r} does not have "
            "all of it: put the file where the body's files are (the regressors are in the SPIN "
            "data archive), or use body=free, which has every joint set"
        )


_NEEDS = {
    "extra": "J_regressor_extra.npy",
    "h36m": "J_regressor_h36m.npy",
    "vertex": f"the {NUM_SMPL_VERTICES} vertices of SMPL's mesh",
}


def _register(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Buffers that move with the module and never enter a state dict."""
    for name, array in arrays.items():
        dtype = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int64
        buffer = torch.from_numpy(np.array(array, dtype=dtype, order="C"))
        module.register_buffer(name, buffer, persistent=False)


class _JointReader(nn.Module):
    """One joint set of one body, from parameters or from a mesh.

    A regressed joint is a weighted sum of skinned vertices, ``sum_v r_v sum_j w_vj A_j (x_v, 1)``.
    Summed over the vertices first, each bone j has one moment point ``sum_v r_v w_vj x_v``, linear
    in the blend features, with mass ``sum_v r_v w_vj``. So a joint needs a few points, no vertices.

    Args:
        joint_set: its name.
        rows: (V,) regressor row of each name that is not an SMPL joint.
        points: moment points of each of those names.
    """

    def __init__(
        self, joint_set: str, rows: Mapping[str, np.ndarray], points: Mapping[str, "_Points"]
    ) -> None:
        super().__init__()
        joint_names = joints.names(joint_set)
        read = list(dict.fromkeys(name for name in joint_names if name in rows))
        regressor = np.stack([rows[name] for name in read])  # (k, V)
        vertices = np.flatnonzero(regressor.any(axis=0))
        owner = np.repeat(np.arange(len(read)), [len(points[name].mass) for name in read])
        place = {name: 24 + i for i, name in enumerate(read)}
        order = [place.get(name, joints.SOURCES[name].index) for name in joint_names]
        blend = np.concatenate([points[name].blend for name in read], axis=1)  # (3, n, 217 + 1)
        _register(
            self,
            {
                "vertices": vertices,
                "regressor": regressor[:, vertices],  # (k, n_read)
                "template": blend[..., -1].reshape(-1),  # (3n,)
                "blend": blend[..., :-1].reshape(-1, blend.shape[2] - 1).T,  # (217, 3n)
                "weights": np.concatenate([points[name].weights for name in read]).T,  # (J, n)
                "mass": np.concatenate([points[name].mass for name in read]),
                "owner": (np.arange(len(read))[:, None] == owner).astype(np.float32),  # (k, n)
                "order": np.array(order),
            },
        )

    def forward(self, features: Tensor, transforms: Tensor, posed_joints: Tensor) -> Tensor:
        """Joints (P, K, 3) from what ``SMPL._pose`` gives."""
        rest = torch.addmm(self.template, features, self.blend)
        rest = rest.view(len(features), 3, len(self.mass))
        points = skinning.skin(transforms, self.weights, rest, self.mass)  # (P, n, 3)
        return torch.cat([posed_joints, self.owner @ points], dim=1).index_select(1, self.order)

    def read(self, mesh: Mesh) -> Tensor:
        """Joints (P, K, 3) of posed meshes."""
        read = self.regressor @ mesh.vertices.index_select(1, self.vertices).to(
            self.regressor.dtype
        )
        return torch.cat([mesh.joints.to(read.dtype), read], dim=1).index_select(1, self.order)


@dataclass
class _Points:
    """Points whose skinned sum is one joint."""

    blend: np.ndarray  # (3, n, 217 + 1): per blend feature, last the template
    weights: np.ndarray  # (n, J + 1) skinning weights, last of transl
    mass: np.ndarray  # (n,) how often the blended translation counts


def _moment_points(data: BodyData, row: np.ndarray) -> _Points:
    vertices = np.flatnonzero(row)
    dirs = (data.shapedirs, data.posedirs, data.v_template[..., None])
    picked = np.concatenate([part[vertices] for part in dirs], axis=2).transpose(1, 0, 2)
    if len(vertices) == 1:  # blending the bones of one vertex is cheaper than a point per bone
        scale = row[vertices]
        return _Points(picked * scale, np.append(data.weights[vertices], [[1.0]], axis=1), scale)
    share = data.weights[vertices] * row[vertices, None]  # (n, J)
    bones = np.flatnonzero(share.any(axis=0))
    mass = share[:, bones].sum(axis=0)
    weights = np.zeros((len(bones), data.weights.shape[1] + 1), np.float32)
    weights[np.arange(len(bones)), bones] = 1.0
    weights[:, -1] = row.sum() / mass.sum()  # together, transl counts as often as the row says
    return _Points(share[:, bones].T @ picked, weights, mass)


def _regressor_rows(data: BodyData) -> dict[str, np.ndarray]:
    """(V,) regressor row of every joint name that this body can read off its surface."""
    num_vertices = len(data.v_template)
    extra = data.J_regressor_extra
    names_19 = joints.names("spin44")[-19:]
    has_19 = extra is not None and len(extra) == len(names_19)
    tables = {"extra": None if has_19 else extra, "h36m": data.J_regressor_h36m}
    rows = {}
    for name, source in joints.SOURCES.items():
        table = tables.get(source.kind)
        if table is not None:
            rows[name] = table[source.index].astype(np.float32)
        elif source.kind == "vertex" and num_vertices == NUM_SMPL_VERTICES:
            rows[name] = np.zeros(num_vertices, np.float32)
            rows[name][source.index] = 1.0
    if has_19:
        rows |= {name: row.astype(np.float32) for name, row in zip(names_19, extra, strict=True)}
    return rows


def _joint_readers(data: BodyData) -> dict[str, _JointReader]:
    rows = _regressor_rows(data)
    points = {name: _moment_points(data, row) for name, row in rows.items()}

    def is_known(joint_names: Iterable[str]) -> bool:
        return all(n in rows or joints.SOURCES[n].kind == "smpl" for n in joint_names)

    sets = [s for s, joint_names in joints.JOINT_SETS.items() if is_known(joint_names)]
    return {s: _JointReader(s, rows, points) for s in sets if s != "smpl24"}
