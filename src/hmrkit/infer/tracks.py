"""From people in single frames to people through time, all before the one camera of a video.

A person keeps one shape: the mean over the frames. Places are interpolated and smoothed as what a
camera sees, pixel and logarithm of depth, so that noise in the depth, which is large where focal
lengths are long, does not move anybody in the picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hmrkit.body import joints
from hmrkit.infer.predict import move_to_camera, shared_camera
from hmrkit.infer.smoothing import Filter, acceleration, fill_gaps, stretches
from hmrkit.infer.tracking import NOBODY
from hmrkit.types import Body

PELVIS = joints.index("pelvis", "smpl24")


@dataclass(frozen=True)
class Track:
    """One person in T frames, camera frame, metres.

    Attributes:
        identity: from 1, in the order of appearance.
        is_seen: (T,) bool, predicted from the picture.
        is_there: (T,) bool, seen or interpolated; the rows below hold only where it is true.
        rotations: (T, 24, 3, 3); the first takes the body to the camera frame.
        betas: (10,).
        pelvis_cam: (T, 3).
        box_img: (T, 4) px, NaN where not seen.
        score: (T,), NaN where not seen or given.
    """

    identity: int
    is_seen: NDArray[np.bool_]
    is_there: NDArray[np.bool_]
    rotations: Tensor
    betas: Tensor
    pelvis_cam: Tensor
    box_img: NDArray[np.float32]
    score: NDArray[np.float32]

    def body(self, frames: Any = slice(None)) -> Body:
        """Bodies (T or as many as asked for) at the origin, see ``pelvis_to_transl``."""
        rotations = self.rotations[frames].float()
        betas = self.betas.float().expand(len(rotations), -1)
        return Body(rotations[:, 0], rotations[:, 1:], betas, betas.new_zeros(len(betas), 3))


def camera_of_clip(
    intrinsics_img: Tensor, size_hw: tuple[int, int], focal_px: float | None
) -> Tensor:
    """One camera (3, 3) px for all frames: theirs if they agree, else the median focal length.

    Args:
        intrinsics_img: (M, 3, 3) px, own cameras of all people of all frames.
        size_hw: height and width of the frames.
        focal_px: known focal length.
    """
    return shared_camera(intrinsics_img.double(), size_hw, focal_px)


def make_tracks(
    rows: Mapping[str, Tensor], camera: Tensor, num_frames: int, *, min_frames: int, max_gap: int
) -> list[Track]:
    """Sort predictions by person, and interpolate short gaps.

    Args:
        rows: (M, ...) of ``predict.predict_crops``, with ``frame``, ``id``, ``box_img``, ``score``.
        camera: (3, 3) px of the clip.
        num_frames: T.
        min_frames: who is seen in fewer is left out.
        max_gap: longer gaps, in frames, stay.
    """
    own = {key: value.double() for key, value in rows.items()}
    pelvis = own["pelvis"] + own["transl_cam"]
    turn, pelvis_cam = move_to_camera(pelvis, own["intrinsics_img"], camera.double())
    rotations = torch.cat([(turn @ own["global_orient"])[:, None], own["body_pose"]], dim=1)
    frame, ids = rows["frame"].numpy(), rows["id"].numpy()
    tracks: list[Track] = []
    for identity in dict.fromkeys(ids[np.argsort(frame, kind="stable")].tolist()):
        chosen = np.flatnonzero(ids == identity)
        if identity == NOBODY or len(chosen) < min_frames:
            continue
        at = frame[chosen]
        is_seen = np.zeros(num_frames, bool)
        is_seen[at] = True
        turned = torch.eye(3, dtype=torch.float64).repeat(num_frames, rotations.shape[1], 1, 1)
        turned[at] = rotations[chosen]
        place = _to_picture(pelvis_cam[chosen])
        places = torch.zeros(num_frames, 3, dtype=torch.float64)
        places[at] = place
        turned, is_there = fill_gaps(turned, is_seen, max_gap)
        places, _ = fill_gaps(places, is_seen, max_gap)
        box, score = np.full((num_frames, 4), np.nan), np.full(num_frames, np.nan)
        box[at], score[at] = rows["box_img"][chosen].numpy(), rows["score"][chosen].numpy()
        tracks.append(
            Track(
                identity=len(tracks) + 1,
                is_seen=is_seen,
                is_there=is_there,
                rotations=turned,
                betas=own["betas"][chosen].mean(dim=0),
                pelvis_cam=_from_picture(places),
                box_img=box.astype(np.float32),
                score=score.astype(np.float32),
            )
        )
    return tracks


def smooth_track(track: Track, smooth: Filter, fps: float) -> Track:
    """The track without jitter; shape and frames stay."""
    rotations, places = track.rotations.clone(), _to_picture(track.pelvis_cam)
    for part in stretches(track.is_there):
        scale = places[part, 2].mean().exp()  # metres in the picture plane at this depth
        rotations[part] = smooth.rotations(rotations[part], fps)
        places[part] = smooth.points(places[part] * scale, fps) / scale
    pelvis_cam = torch.where(
        torch.from_numpy(track.is_there)[:, None], _from_picture(places), track.pelvis_cam
    )
    return replace(track, rotations=rotations, pelvis_cam=pelvis_cam)


def jitter(tracks: Sequence[Track], body_model: Any, fps: float) -> float:
    """Mean acceleration of the joints about the pelvis over all people, m/s^2; NaN if unknown."""
    values = []
    for track in tracks:
        points = body_model.joints(_on(track.body(), body_model)).cpu().double()
        values.append(acceleration(points - points[:, [PELVIS]], track.is_there, fps))
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def people_at(tracks: Sequence[Track], frame: int, body_model: Any) -> tuple[np.ndarray, list[int]]:
    """Vertices (N, V, 3) m, camera frame, of who is in a frame, and their rows of ``tracks``."""
    there = [row for row, track in enumerate(tracks) if track.is_there[frame]]
    if not there:
        return np.zeros((0, body_model.num_vertices, 3), np.float32), []
    bodies = [tracks[row].body(slice(frame, frame + 1)) for row in there]
    fields = ("global_orient", "body_pose", "betas", "transl")
    body = Body(*(torch.cat([getattr(b, name) for b in bodies]) for name in fields))
    mesh = body_model(_on(body, body_model))
    pelvis = torch.stack([tracks[row].pelvis_cam[frame] for row in there]).float()
    vertices = mesh.vertices.cpu() + (pelvis - mesh.joints[:, PELVIS].cpu())[:, None]
    return vertices.numpy(), there


def moved_body(track: Track, body_model: Any) -> Body:
    """All T frames with the translation that puts the pelvis where it is."""
    body = track.body()
    root = body_model.joints(_on(body, body_model))[:, PELVIS].cpu()
    return Body(body.global_orient, body.body_pose, body.betas, track.pelvis_cam.float() - root)


def _on(body: Body, body_model: Any) -> Body:
    device = body_model.mean_pose.device
    fields = (body.global_orient, body.body_pose, body.betas, body.transl)
    return Body(*(field.to(device) for field in fields))


def _to_picture(points_cam: Tensor) -> Tensor:
    """x/z, y/z and log z (..., 3)."""
    depth = points_cam[..., 2:].clamp(min=1e-3)
    return torch.cat([points_cam[..., :2] / depth, depth.log()], dim=-1)


def _from_picture(places: Tensor) -> Tensor:
    depth = places[..., 2:].exp()
    return torch.cat([places[..., :2] * depth, depth], dim=-1)
