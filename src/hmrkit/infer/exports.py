"""Files people keep: npz with everything, glb and obj for 3D software.

The npz holds the camera frame of hmrkit (x right, y down, z forward, metres). The glb and obj hold
the same people in glTF's axes (y up, looking along -z): ``(x, y, z)_gltf = (x, -y, -z)_cam``, still
metres, the camera at the origin.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import trimesh

SCHEMA_VERSION = 2
CAM_TO_GLTF = np.diag([1.0, -1.0, -1.0])

# key -> (dimensions, meaning); N people, J = 24 body joints, K joints of joint_names, V vertices.
PEOPLE_SCHEMA: dict[str, tuple[str, str]] = {
    "schema_version": ("()", "version of this table"),
    "image": ("()", "name of the picture"),
    "image_size": ("(2,)", "height, width of the upright picture, px"),
    "method": ("()", "network that made the prediction"),
    "checkpoint": ("()", "its file"),
    "body": ("()", "body model; faces, vertices and pose belong to it"),
    "box_img": ("(N, 4)", "x1 y1 x2 y2 px, the box each person was looked for in"),
    "score": ("(N,)", "how sure it is that somebody is there; NaN where the box was given"),
    "pose": ("(N, J, 3)", "SMPL axis-angle, radians; row 0 takes the body to the camera frame"),
    "betas": ("(N, 10)", "SMPL shape"),
    "transl_cam": ("(N, 3)", "m, SMPL's translation in the camera frame"),
    "vertices_cam": ("(N, V, 3)", "m, camera frame; equal to SMPL(pose, betas) + transl_cam"),
    "faces": ("(F, 3)", "triangles, rows of vertices_cam[i]"),
    "joint_names": ("(K,)", "names of the joints below"),
    "joints_cam": ("(N, K, 3)", "m, camera frame"),
    "keypoints_img": ("(N, K, 2)", "px, joints_cam seen by intrinsics_img"),
    "coco17_img": ("(N, 17, 2)", "px, COCO's joints (joint set coco17) seen by intrinsics_img"),
    "intrinsics_img": ("(3, 3)", "px, the one camera of the picture, shared by its people"),
    "transl_own_cam": ("(N, 3)", "m, translation in the person's own camera, as predicted"),
    "intrinsics_own_img": ("(N, 3, 3)", "px, that camera"),
    "camera_shift_px": ("(N,)", "px, largest distance of a vertex between own and shared camera"),
}


def write_npz(path: Path, people: Mapping[str, np.ndarray]) -> None:
    """Write what was predicted for one picture; ``numpy.load`` reads it without pickle.

    Args:
        path: the file.
        people: the keys of ``PEOPLE_SCHEMA``, all of them.
    """
    assert people.keys() == PEOPLE_SCHEMA.keys(), people.keys() ^ PEOPLE_SCHEMA.keys()
    np.savez_compressed(path, **people)


def write_adaptation(path: Path, curve: np.ndarray, error_px: np.ndarray) -> None:
    """Write what test-time optimisation did for each person, as JSON.

    Args:
        path: the file.
        curve: (N, S) loss before every step and at the end; NaN where steps were not needed.
        error_px: (N, 2) mean distance of the joints to the keypoints before and after; NaN for
            people without keypoints.
    """
    people = [
        {
            "loss": [float(v) for v in losses if np.isfinite(v)],
            "error_before_px": float(before) if np.isfinite(before) else None,
            "error_after_px": float(after) if np.isfinite(after) else None,
        }
        for losses, (before, after) in zip(curve, error_px, strict=True)
    ]
    path.write_text(json.dumps({"people": people}, indent=2) + "\n", encoding="utf-8")


def write_glb(path: Path, vertices_cam: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> None:
    """Write P people as one binary glTF with a mesh ``person_<i>`` each.

    Args:
        path: the file.
        vertices_cam: (P, V, 3) m, camera frame.
        faces: (F, 3).
        colors: (P, 3) or (P, V, 3) uint8 RGB.
    """
    path.write_bytes(_scene(vertices_cam, faces, colors).export(file_type="glb"))


def write_obj(path: Path, vertices_cam: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> None:
    """Write P people as one OBJ, glTF's axes, colours behind the coordinates of each vertex.

    Args:
        path: the file.
        vertices_cam: (P, V, 3) m, camera frame.
        faces: (F, 3).
        colors: (P, 3) or (P, V, 3) uint8 RGB.
    """
    from trimesh.exchange.obj import export_obj

    scene = _scene(vertices_cam, faces, colors)
    path.write_text(export_obj(scene, include_normals=False), encoding="utf-8")


def write_ply(path: Path, vertices_cam: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> None:
    """Write P people as one binary PLY, glTF's axes: their meshes one behind the other.

    Args:
        path: the file.
        vertices_cam: (P, V, 3) m, camera frame.
        faces: (F, 3).
        colors: (P, 3) or (P, V, 3) uint8 RGB.
    """
    path.write_bytes(_scene(vertices_cam, faces, colors).to_mesh().export(file_type="ply"))


def named(stem: Path, ending: str) -> Path:
    """Append to a name that may itself hold dots."""
    return stem.with_name(stem.name + ending)


def _scene(vertices_cam: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> "trimesh.Scene":
    import trimesh

    vertices = np.asarray(vertices_cam) @ CAM_TO_GLTF.T
    colors = np.asarray(colors)
    if colors.ndim == 2:
        colors = np.broadcast_to(colors[:, None], vertices.shape)
    scene = trimesh.Scene()
    for i, (points, color) in enumerate(zip(vertices, colors, strict=True)):
        mesh = trimesh.Trimesh(points, faces, vertex_colors=color, process=False)
        scene.add_geometry(mesh, node_name=f"person_{i}", geom_name=f"person_{i}")
    return scene
