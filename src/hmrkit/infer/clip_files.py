"""The files of one video: what everybody did, drawn and in the forms that other software reads."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from hmrkit.body.rigging import Rig, rig_and_bones
from hmrkit.infer import exports, videos
from hmrkit.infer.bvh import write_bvh
from hmrkit.infer.coco import Shown, write_coco
from hmrkit.infer.gltf import Character, write_animation
from hmrkit.infer.motion import write_motion
from hmrkit.infer.tracks import Track, moved_body, people_at
from hmrkit.render import draw, viewer
from hmrkit.render.render import PALETTE

_VIEWER_PX = 640  # long side of the video in the page
_VIEWER_CRF = 28


@dataclass(frozen=True)
class Clip:
    """A video that was looked at.

    Attributes:
        path: of the video.
        fps: frames per second that were looked at.
        num_frames: T.
        size_hw: height and width, px.
        intrinsics_img: (3, 3) px, its one camera.
        about: names of the method and the checkpoint.
    """

    path: Path
    fps: float
    num_frames: int
    size_hw: tuple[int, int]
    intrinsics_img: np.ndarray
    about: dict[str, str]


def write_clip(
    stem: Path, clip: Clip, tracks: Sequence[Track], body_model: Any, config: DictConfig
) -> None:
    """Write what ``config.formats`` asks for.

    Args:
        stem: path of the files without their endings; files of single people and frames go into a
            folder of this name.
        clip: the video.
        tracks: P >= 1 people.
        body_model: their body.
        config: ``formats``, ``joint_set``, ``supersample``, ``max_seconds``.
    """
    formats = set(config.formats)
    stem.parent.mkdir(parents=True, exist_ok=True)
    colors = PALETTE[[(track.identity - 1) % len(PALETTE) for track in tracks]]
    if "npz" in formats:
        for track in tracks:
            path = _of_person(stem, track, ".npz")
            write_motion(path, track, clip, body_model, config.joint_set)
    if formats & {"glb", "bvh", "viewer"}:
        rigged = [_rigged(track, body_model) for track in tracks]
        _write_characters(stem, clip, tracks, rigged, colors, body_model, formats)
    if "coco" in formats:
        _write_coco(exports.named(stem, "_coco.json"), clip, tracks, body_model)
    if formats & {"overlay", "side", "obj", "ply", "viewer"}:
        film = _draw(stem, clip, tracks, colors, body_model, config)
        if "viewer" in formats:
            page = _page(clip, tracks, rigged, colors, body_model, film)
            exports.named(stem, "_viewer.html").write_text(page, encoding="utf-8")


def _of_person(stem: Path, track: Track, ending: str) -> Path:
    stem.mkdir(parents=True, exist_ok=True)
    return stem / f"person_{track.identity}{ending}"


def _rigged(track: Track, body_model: Any) -> tuple[Rig, np.ndarray]:
    """Mesh and skeleton at rest, and (T, J, 3, 4) bones in the camera frame; identity when away."""
    there, device = np.flatnonzero(track.is_there), body_model.mean_pose.device
    body = moved_body(track, body_model)
    present = type(body)(*(value[there].to(device) for value in vars(body).values()))
    rig, bones = rig_and_bones(body_model, present)
    everywhere = np.tile(
        np.eye(3, 4, dtype=np.float32), (len(track.is_there), bones.shape[1], 1, 1)
    )
    everywhere[there] = bones.cpu().numpy()
    fields = (rig.vertices.cpu(), rig.joints.cpu(), rig.weights.cpu())
    return Rig(*fields, rig.parents, rig.names), everywhere


def _write_characters(
    stem: Path,
    clip: Clip,
    tracks: Sequence[Track],
    rigged: Sequence[tuple[Rig, np.ndarray]],
    colors: np.ndarray,
    body_model: Any,
    formats: set[str],
) -> None:
    """Skinned glb of everybody, bvh of each."""
    if "bvh" in formats:
        for track, (rig, _) in zip(tracks, rigged, strict=True):
            span = np.flatnonzero(track.is_there)
            held = np.maximum.accumulate(
                np.where(track.is_there, np.arange(len(track.is_there)), span[0])
            )[span[0] : span[-1] + 1]  # who is away for long keeps the last pose
            rotations = track.rotations.numpy()[held]
            places = track.pelvis_cam.numpy()[held]
            write_bvh(_of_person(stem, track, ".bvh"), rig, rotations, places, clip.fps)
    if "glb" in formats:
        characters = [
            Character(
                name=f"person_{track.identity}",
                rig=rig,
                rotations=track.rotations.numpy(),
                root_cam=track.pelvis_cam.numpy(),
                is_there=track.is_there,
                color=color,
            )
            for track, (rig, _), color in zip(tracks, rigged, colors, strict=True)
        ]
        faces = body_model.faces.cpu().numpy()
        path = exports.named(stem, ".glb")
        write_animation(path, characters, faces, clip.fps, clip.intrinsics_img, clip.size_hw)


def _write_coco(path: Path, clip: Clip, tracks: Sequence[Track], body_model: Any) -> None:
    from hmrkit.infer.motion import joints_cam

    points = [joints_cam(track, body_model, "coco17") for track in tracks]
    shown = []
    for frame in range(clip.num_frames):
        there = [row for row, track in enumerate(tracks) if track.is_there[frame]]
        rays = np.stack([points[row][frame] for row in there]) if there else np.zeros((0, 17, 3))
        rays = rays @ clip.intrinsics_img.T
        shown.append(
            Shown(
                file_name=f"{clip.path.stem}/{frame + 1:06d}.jpg",
                size_hw=clip.size_hw,
                keypoints_img=rays[..., :2] / rays[..., 2:],
                ids=[tracks[row].identity for row in there],
                score=np.array([tracks[row].score[frame] for row in there]),
            )
        )
    write_coco(path, shown)


@torch.no_grad()
def _draw(
    stem: Path,
    clip: Clip,
    tracks: Sequence[Track],
    colors: np.ndarray,
    body_model: Any,
    config: DictConfig,
) -> bytes | None:
    """Everything that is made frame by frame; the small film for the page."""
    formats, faces = set(config.formats), body_model.faces.cpu().numpy()
    around = _extent(tracks, body_model)
    film = stem.with_name(f".{stem.name}_viewer.mp4")
    with ExitStack() as open_files:

        def writer(ending: str, path: Path | None = None, crf: int = 18) -> videos.VideoWriter:
            target = path or exports.named(stem, ending)
            return open_files.enter_context(videos.VideoWriter(target, clip.fps, crf))

        overlay = writer("_overlay.mp4") if "overlay" in formats else None
        side = writer("_side.mp4") if "side" in formats else None
        small = writer("", film, _VIEWER_CRF) if "viewer" in formats else None
        frames = videos.read_frames(clip.path, clip.fps, config.max_seconds)
        bar = tqdm(frames, total=clip.num_frames, desc=f"{stem.name}: draw", unit="frame")
        for number, image in enumerate(bar):
            vertices, there = people_at(tracks, number, body_model)
            paint, samples = colors[there], config.supersample
            people = list(vertices)
            if overlay:
                camera = clip.intrinsics_img
                overlay.write(
                    draw.overlay(image, people, faces, camera, colors=paint, supersample=samples)
                )
            if side:
                side.write(
                    draw.side_view(people, faces, around=around, colors=paint, supersample=samples)
                )
            if small:
                small.write(_shrunk(image))
            _write_meshes(stem, number, vertices, faces, paint, formats)
    if small is None:
        return None
    content = film.read_bytes()
    film.unlink()
    return content


def _write_meshes(
    stem: Path,
    frame: int,
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray,
    formats: set[str],
) -> None:
    if not len(vertices) or not formats & {"obj", "ply"}:
        return
    stem.mkdir(parents=True, exist_ok=True)
    bytes_rgb = np.round(255 * colors).astype(np.uint8)
    if "obj" in formats:
        exports.write_obj(stem / f"{frame + 1:06d}.obj", vertices, faces, bytes_rgb)
    if "ply" in formats:
        exports.write_ply(stem / f"{frame + 1:06d}.ply", vertices, faces, bytes_rgb)


def _extent(tracks: Sequence[Track], body_model: Any) -> np.ndarray:
    """Points (N, 3) around everybody through the whole video, for one camera from the side."""
    from hmrkit.infer.motion import joints_cam

    points = [joints_cam(track, body_model, "smpl24")[track.is_there] for track in tracks]
    flat = np.concatenate([p.reshape(-1, 3) for p in points])
    margin = np.array([[0.2, 0.25, 0.2]])  # from joints to skin, crown and soles
    return np.concatenate([flat - margin, flat + margin])


def _page(
    clip: Clip,
    tracks: Sequence[Track],
    rigged: Sequence[tuple[Rig, np.ndarray]],
    colors: np.ndarray,
    body_model: Any,
    film: bytes | None,
) -> str:
    motions = [
        viewer.Motion(rig.weights.numpy(), bones, track.is_there)
        for track, (rig, bones) in zip(tracks, rigged, strict=True)
    ]
    figure = viewer.figure(
        [rig.vertices.numpy() for rig, _ in rigged],
        body_model.faces.cpu().numpy(),
        colors=colors,
        names=[f"person {track.identity}" for track in tracks],
        motions=motions,
        fps=clip.fps,
        intrinsics_img=clip.intrinsics_img,
        size_hw=clip.size_hw,
        video=film,
    )
    return viewer.page(clip.path.name, figure)


def _shrunk(image: np.ndarray) -> np.ndarray:
    factor = min(1.0, _VIEWER_PX / max(image.shape[:2]))
    size = (2 * round(image.shape[1] * factor / 2), 2 * round(image.shape[0] * factor / 2))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
