"""One person through a video as npz: AMASS's keys, and everything that a camera makes of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hmrkit.body import joints
from hmrkit.geometry.rotations import rotmat_to_axis_angle
from hmrkit.infer.tracks import PELVIS, Track, moved_body

if TYPE_CHECKING:
    from hmrkit.infer.clip_files import Clip

SCHEMA_VERSION = 1
# Camera frame (x right, y down, z forward) to AMASS's (x right, y forward, z up).
CAM_TO_AMASS = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])

# key -> (dimensions, meaning); T frames, J = 24 body joints, K joints of joint_names.
MOTION_SCHEMA: dict[str, tuple[str, str]] = {
    "schema_version": ("()", "version of this table"),
    "video": ("()", "name of the video"),
    "method": ("()", "network that made the prediction"),
    "checkpoint": ("()", "its file"),
    "body": ("()", "body model; poses and betas belong to it"),
    "person_id": ("()", "number of the person in the video, from 1"),
    "gender": ("()", "neutral"),
    "mocap_framerate": ("()", "frames per second; frame t shows the time t / mocap_framerate"),
    "poses": ("(T, 3 J)", "SMPL axis-angle, radians; the first 3 take the body to z-up axes"),
    "trans": ("(T, 3)", "m, SMPL's translation in z-up axes: x right, y away from the camera"),
    "betas": ("(10,)", "SMPL shape, one for all frames"),
    "root_orient_cam": ("(T, 3)", "axis-angle, radians: the first 3 of poses, to the camera frame"),
    "trans_cam": (
        "(T, 3)",
        "m, SMPL's translation in the camera frame (x right, y down)",
    ),
    "is_there": ("(T,)", "bool, seen or interpolated; the other frames hold no pose"),
    "is_seen": ("(T,)", "bool, predicted from the picture"),
    "score": ("(T,)", "how sure it is that somebody is there; NaN where not seen or given"),
    "box_img": ("(T, 4)", "x1 y1 x2 y2 px, where it was looked for; NaN where not seen"),
    "joint_names": ("(K,)", "names of the joints below"),
    "joints_cam": ("(T, K, 3)", "m, camera frame"),
    "keypoints_img": ("(T, K, 2)", "px, joints_cam seen by intrinsics_img"),
    "intrinsics_img": ("(3, 3)", "px, the one camera of the video, shared by its people"),
    "image_size": ("(2,)", "height, width of the upright video, px"),
}


def write_motion(path: Path, track: Track, clip: "Clip", body_model: Any, joint_set: str) -> None:
    """Write one person; ``numpy.load`` reads it without pickle.

    Args:
        path: the file.
        track: the person.
        clip: the video.
        body_model: the body.
        joint_set: of the joints.
    """
    body = moved_body(track, body_model)
    axes = torch.from_numpy(CAM_TO_AMASS)
    turned = axes @ track.rotations[:, 0]
    poses = rotmat_to_axis_angle(torch.cat([turned[:, None], track.rotations[:, 1:]], dim=1))
    # SMPL turns about the pelvis of the shape, not about the origin.
    root = track.pelvis_cam - body.transl.double()
    points = joints_cam(track, body_model, joint_set)
    rays = points @ clip.intrinsics_img.T
    content = {
        "schema_version": np.array(SCHEMA_VERSION),
        "video": np.array(clip.path.name),
        **{key: np.array(value) for key, value in clip.about.items()},
        "body": np.array(body_model.name),
        "person_id": np.array(track.identity),
        "gender": np.array("neutral"),
        "mocap_framerate": np.array(clip.fps),
        "poses": poses.flatten(1).numpy().astype(np.float32),
        "trans": (track.pelvis_cam @ axes.T - root).numpy().astype(np.float32),
        "betas": track.betas.numpy().astype(np.float32),
        "root_orient_cam": rotmat_to_axis_angle(track.rotations[:, 0]).numpy().astype(np.float32),
        "trans_cam": body.transl.numpy().astype(np.float32),
        "is_there": track.is_there,
        "is_seen": track.is_seen,
        "score": track.score,
        "box_img": track.box_img,
        "joint_names": np.array(joints.names(joint_set)),
        "joints_cam": points.astype(np.float32),
        "keypoints_img": (rays[..., :2] / np.maximum(rays[..., 2:], 1e-6)).astype(np.float32),
        "intrinsics_img": clip.intrinsics_img.astype(np.float32),
        "image_size": np.array(clip.size_hw, np.int64),
    }
    assert content.keys() == MOTION_SCHEMA.keys(), content.keys() ^ MOTION_SCHEMA.keys()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **content)


@torch.no_grad()
def joints_cam(track: Track, body_model: Any, joint_set: str) -> np.ndarray:
    """Joints (T, K, 3) m in the camera frame."""
    body = track.body()
    device = body_model.mean_pose.device
    on_device = type(body)(*(value.to(device) for value in vars(body).values()))
    points = body_model.joints(on_device, joint_set).cpu().double()
    root = body_model.joints(on_device).cpu().double()[:, [PELVIS]]
    return (points - root + track.pelvis_cam[:, None]).numpy()
