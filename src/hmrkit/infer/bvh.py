"""Motion as BVH, the text format that animation software has read for thirty years.

Centimetres, y up, angles in degrees, intrinsic Z X Y as most writers have them; SMPL's joints.
"""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.body.rigging import Rig
from hmrkit.infer.exports import CAM_TO_GLTF

_CM = 100.0
_TURNS = "Zrotation Xrotation Yrotation"
_END_CM = 5.0  # of bones without a joint at their end


def write_bvh(
    path: Path, rig: Rig, rotations: np.ndarray, root_cam: np.ndarray, fps: float
) -> None:
    """Write one person.

    Args:
        path: the file.
        rig: the skeleton at rest.
        rotations: (T, J, 3, 3), each relative to the parent, the first to the camera frame.
        root_cam: (T, 3) m, place of the first joint.
        fps: frames per second.
    """
    offsets = rig.joints.numpy() * _CM
    lines, order = ["HIERARCHY"], []

    def joint(index: int, depth: int) -> None:
        order.append(index)
        pad, parent = "  " * depth, rig.parents[index]
        offset = offsets[index] - (offsets[parent] if parent >= 0 else offsets[index])
        channels = f"CHANNELS 3 {_TURNS}"
        if parent < 0:
            channels = f"CHANNELS 6 Xposition Yposition Zposition {_TURNS}"
        lines.extend(
            [
                f"{pad}{'ROOT' if parent < 0 else 'JOINT'} {rig.names[index]}",
                f"{pad}{{",
                f"{pad}  OFFSET {_row(offset)}",
                f"{pad}  {channels}",
            ]
        )
        children = [i for i, other in enumerate(rig.parents) if other == index]
        for child in children:
            joint(child, depth + 1)
        if not children:
            ahead = offset / max(np.linalg.norm(offset), 1e-9) * _END_CM
            end = [f"{pad}  End Site", f"{pad}  {{", f"{pad}    OFFSET {_row(ahead)}"]
            lines.extend([*end, f"{pad}  }}"])
        lines.append(f"{pad}}}")

    joint(rig.parents.index(-1), 0)
    turned = np.array(rotations, np.float64)
    turned[:, 0] = CAM_TO_GLTF @ turned[:, 0]
    angles = Rotation.from_matrix(turned[:, order].reshape(-1, 3, 3)).as_euler("ZXY", degrees=True)
    places = root_cam @ CAM_TO_GLTF.T * _CM
    motion = np.concatenate([places, angles.reshape(len(turned), -1)], axis=1)
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / fps:.8f}"]
    lines += [_row(frame) for frame in motion]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def _row(values: np.ndarray) -> str:
    return " ".join(f"{value:.5f}" for value in values)
