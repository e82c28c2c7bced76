"""Animated characters as binary glTF 2.0, for Blender, Unity, Unreal and browsers.

Every person is a mesh with a skin: SMPL's joints as nodes, four weights for each vertex, rotations
of all joints and the place of the pelvis as an animation. Axes are glTF's (y up), the camera stands
at the origin and looks along -z, metres. Who is away is scaled to nothing, as glTF has no switch.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.body.rigging import Rig
from hmrkit.infer.exports import CAM_TO_GLTF
from hmrkit.render.shading import vertex_normals

_KINDS = {"float32": 5126, "uint32": 5125, "uint16": 5123, "uint8": 5121}
_SHAPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
_VERTEX_BUFFER, _INDEX_BUFFER = 34962, 34963


@dataclass(frozen=True)
class Character:
    """One person to animate; T frames, J joints.

    Attributes:
        name: of the node.
        rig: mesh and skeleton at rest.
        rotations: (T, J, 3, 3), each relative to the parent; the first takes the body to the camera
            frame.
        root_cam: (T, 3) m, place of the first joint.
        is_there: (T,) bool.
        color: (3,) sRGB in [0, 1].
    """

    name: str
    rig: Rig
    rotations: np.ndarray
    root_cam: np.ndarray
    is_there: np.ndarray
    color: np.ndarray


@dataclass
class _File:
    """A glTF under construction."""

    json: dict[str, Any] = field(
        default_factory=lambda: {
            "asset": {"version": "2.0", "generator": "hmrkit"},
            "scene": 0,
            "scenes": [{"nodes": []}],
            **{key: [] for key in ("nodes", "meshes", "materials", "skins", "accessors")},
            "bufferViews": [],
        }
    )
    binary: bytearray = field(default_factory=bytearray)

    def add(self, key: str, item: dict[str, Any]) -> int:
        self.json.setdefault(key, []).append(item)
        return len(self.json[key]) - 1

    def array(self, values: np.ndarray, target: int | None = None, has_range: bool = False) -> int:
        """The accessor of an array (N, ...)."""
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": values.nbytes}
        if target is not None:
            view["target"] = target
        self.binary += np.ascontiguousarray(values).tobytes()
        self.binary += bytes(-len(self.binary) % 4)
        accessor = {
            "bufferView": self.add("bufferViews", view),
            "componentType": _KINDS[values.dtype.name],
            "count": len(values),
            "type": _SHAPES[values.shape[1:]],
        }
        if has_range:
            flat = values.reshape(len(values), -1)
            accessor |= {"min": flat.min(axis=0).tolist(), "max": flat.max(axis=0).tolist()}
        return self.add("accessors", accessor)

    def write(self, path: Path) -> None:
        self.json["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.json, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = [(b"JSON", text), (b"BIN\0", bytes(self.binary))]
        body = b"".join(struct.pack("<I4s", len(data), kind) + data for kind, data in chunks)
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body)


def write_animation(
    path: Path,
    characters: Sequence[Character],
    faces: np.ndarray,
    fps: float,
    intrinsics_img: np.ndarray | None = None,
    size_hw: tuple[int, int] | None = None,
) -> None:
    """Write one animation with everybody in it.

    Args:
        path: the file, ``.glb``.
        characters: P >= 1 people with equally many frames.
        faces: (F, 3).
        fps: frames per second.
        intrinsics_img: (3, 3) px; with ``size_hw`` the camera is in the file (without the shift of
            its principal point, which glTF does not know).
        size_hw: height and width of the video, px.
    """
    file = _File()
    kind = np.uint16 if len(characters[0].rig.vertices) <= 1 << 16 else np.uint32
    index = file.array(faces.reshape(-1).astype(kind), _INDEX_BUFFER)
    animation: dict[str, Any] = {"name": "motion", "channels": [], "samplers": []}
    for character in characters:
        nodes = _add_character(file, character, faces, index)
        _animate(file, animation, character, nodes, fps)
    file.add("animations", animation)
    if intrinsics_img is not None and size_hw is not None:
        height, width = size_hw
        lens = {
            "yfov": 2 * float(np.arctan(height / 2 / intrinsics_img[1, 1])),
            "aspectRatio": width / height,
            "znear": 0.1,
        }
        camera = file.add("cameras", {"type": "perspective", "perspective": lens})
        file.json["scenes"][0]["nodes"].append(
            file.add("nodes", {"name": "camera", "camera": camera})
        )
    file.write(path)


def skin_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (V, 4) uint8 and weights (V, 4) float32 of the four largest of (V, J), sum 1."""
    bones = np.argsort(-weights, axis=1, kind="stable")[:, :4]
    largest = np.take_along_axis(weights, bones, axis=1)
    largest = largest / largest.sum(axis=1, keepdims=True)
    return np.where(largest > 0, bones, 0).astype(np.uint8), largest.astype(np.float32)


def _add_character(file: _File, character: Character, faces: np.ndarray, index: int) -> list[int]:
    """Mesh, skin and skeleton at rest; the nodes of the joints."""
    rig = character.rig
    vertices, rest = rig.vertices.numpy(), rig.joints.numpy()
    first = len(file.json["nodes"])
    nodes = list(range(first, first + len(rest)))
    for joint, parent in enumerate(rig.parents):
        offset = rest[joint] - (rest[parent] if parent >= 0 else 0)
        children = [nodes[i] for i, other in enumerate(rig.parents) if other == joint]
        node = {"name": rig.names[joint], "translation": np.float64(offset).tolist()}
        file.add("nodes", node | ({"children": children} if children else {}))
    inverse_bind = np.tile(np.eye(4, dtype=np.float32), (len(rest), 1, 1))
    inverse_bind[:, 3, :3] = -rest  # column-major
    skin = {
        "name": character.name,
        "joints": nodes,
        "skeleton": first,
        "inverseBindMatrices": file.array(inverse_bind),
    }
    bones, weights = skin_weights(rig.weights.numpy())
    normals = vertex_normals(vertices, faces)
    attributes = {
        "POSITION": file.array(vertices.astype(np.float32), _VERTEX_BUFFER, has_range=True),
        "NORMAL": file.array(normals.astype(np.float32), _VERTEX_BUFFER),
        "JOINTS_0": file.array(bones, _VERTEX_BUFFER),
        "WEIGHTS_0": file.array(weights, _VERTEX_BUFFER),
    }
    linear = np.float64(character.color) ** 2.2  # glTF's factors are linear
    surface = {"baseColorFactor": [*linear.tolist(), 1.0], "metallicFactor": 0.0}
    material = file.add("materials", {"pbrMetallicRoughness": surface | {"roughnessFactor": 0.8}})
    primitive = {"attributes": attributes, "indices": index, "material": material}
    mesh = file.add("meshes", {"name": character.name, "primitives": [primitive]})
    # The standard wants skinned meshes at the root: their place is that of the joints alone.
    body = {"name": character.name, "mesh": mesh, "skin": file.add("skins", skin)}
    skeleton = {"name": f"{character.name}_skeleton", "children": [first]}
    file.json["scenes"][0]["nodes"] += [file.add("nodes", body), file.add("nodes", skeleton)]
    return nodes


def _animate(
    file: _File, animation: dict[str, Any], character: Character, nodes: list[int], fps: float
) -> None:
    frames = np.flatnonzero(character.is_there)
    times = file.array((frames / fps).astype(np.float32), has_range=True)
    rotations = np.array(character.rotations[frames], np.float64)
    rotations[:, 0] = CAM_TO_GLTF @ rotations[:, 0]

    def channel(node: int, path: str, values: np.ndarray, time: int, way: str = "LINEAR") -> None:
        sampler = {"input": time, "output": file.array(values.astype(np.float32))}
        animation["samplers"].append(sampler | {"interpolation": way})
        target = {"node": node, "path": path}
        number = len(animation["samplers"]) - 1
        animation["channels"].append({"sampler": number, "target": target})

    for joint, node in enumerate(nodes):
        channel(node, "rotation", Rotation.from_matrix(rotations[:, joint]).as_quat(), times)
    channel(nodes[0], "translation", character.root_cam[frames] @ CAM_TO_GLTF.T, times)
    if not character.is_there.all():
        every = np.arange(len(character.is_there))
        ticks = file.array((every / fps).astype(np.float32), has_range=True)
        size = np.repeat(character.is_there[:, None].astype(np.float32), 3, axis=1)
        channel(nodes[0], "scale", size, ticks, "STEP")
