"""People to walk round in a browser: HTML that needs no network, no server and no other file.

``figure`` is one 3D view for any page (a report has many), ``script`` the code that brings all of
a page to life, ``page`` a whole file with one. A view is a photo or video with the people over it,
seen by its camera, and a turntable; without a camera it is a turntable alone. Moving people come as
a rest mesh, skinning weights and joint matrices, so that minutes fit into a page.
"""

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmrkit.render.render import PALETTE

STYLE = """
.hmr-viewer{margin:0 auto;max-width:100%}
.hmr-stage{position:relative;margin:0 auto;overflow:hidden;border-radius:8px;
background:linear-gradient(#f4f5f7,#dfe3e8);color:#333}
.hmr-stage>*{position:absolute;inset:0;width:100%;height:100%}
.hmr-stage canvas{touch-action:none;cursor:grab}
.hmr-bar{display:flex;flex-wrap:wrap;gap:.5em .8em;align-items:center;justify-content:center;
padding:.6em 0;font:14px system-ui,sans-serif}
.hmr-bar button{font:inherit;padding:.25em .9em;border:1px solid #8888;border-radius:99px;
background:none;color:inherit;cursor:pointer}
.hmr-bar input[type=range]{flex:1 1 12em;max-width:32em}
.hmr-bar label{display:inline-flex;gap:.35em;align-items:center;cursor:pointer}
.hmr-bar label i{width:.9em;height:.9em;border-radius:50%}
"""
_LAYOUT = """
:root{color-scheme:light dark}
body{margin:0 auto;padding:1em;max-width:1400px;font:15px system-ui,sans-serif}
h1{font-size:1.1em;font-weight:600;margin:.2em 0 .8em}
"""


@dataclass(frozen=True)
class Motion:
    """How a rest mesh moves; J joints, T frames.

    Attributes:
        weights: (V, J) skinning weights; the four largest of each vertex are used.
        matrices: (T, J, 3, 4), rest to camera frame, m.
        is_seen: (T,) bool; in which frames the person is there.
    """

    weights: np.ndarray
    matrices: np.ndarray
    is_seen: np.ndarray


def figure(
    vertices_cam: Sequence[np.ndarray],
    faces: np.ndarray,
    *,
    colors: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    motions: Sequence[Motion] | None = None,
    fps: float = 30.0,
    intrinsics_img: np.ndarray | None = None,
    size_hw: tuple[int, int] | None = None,
    picture: bytes | None = None,
    video: bytes | None = None,
) -> str:
    """One view as HTML; ``script()`` once at the end of the page's body makes it work.

    Args:
        vertices_cam: P x (V, 3) m, camera frame (x right, y down, z forward); rest meshes of people
            who move.
        faces: (F, 3).
        colors: (P, 3) float RGB in [0, 1]; default ``PALETTE``.
        names: of the people; default their numbers.
        motions: of all people, or None for people who stand still.
        fps: frames per second of moving people.
        intrinsics_img: (3, 3) px, with ``size_hw``; None for a turntable alone.
        size_hw: height and width of the photo, px.
        picture: JPEG to see behind the people, of any size.
        video: MP4 to see behind them, with as many frames as the motions have.
    """
    if colors is None:
        colors = PALETTE[np.arange(len(vertices_cam)) % len(PALETTE)]
    if names is None:
        names = [f"person {i + 1}" for i in range(len(vertices_cam))]
    is_wide = bool(len(vertices_cam)) and len(vertices_cam[0]) > 1 << 16
    people = [
        {"name": name, "color": np.round(color, 4).tolist(), **_quantized(vertices)}
        for name, color, vertices in zip(names, np.float64(colors), vertices_cam, strict=True)
    ]
    if motions is not None:
        people = [one | _moving(motion) for one, motion in zip(people, motions, strict=True)]
    data: dict[str, Any] = {
        "faces": _base64(faces, np.uint32 if is_wide else np.uint16),
        "wideFaces": is_wide,
        "people": people,
        "numFrames": len(motions[0].is_seen) if motions else 1,
        "fps": fps,
    }
    if intrinsics_img is not None and size_hw is not None:
        (fx, _, cx), (_, fy, cy) = np.float64(intrinsics_img)[:2].tolist()
        data["camera"] = {
            "fx": fx, "fy": fy, "cx": cx, "cy": cy, "height": size_hw[0], "width": size_hw[1]
        }  # fmt: skip
    if picture is not None:
        data["picture"] = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    if video is not None:
        data["video"] = f"data:video/mp4;base64,{base64.b64encode(video).decode()}"
    content = json.dumps(data).replace("<", "\\u003c")
    return f'<div class="hmr-viewer"><script type="application/json">{content}</script></div>'


def script() -> str:
    """The styles and the code of all figures of a page, once, behind them."""
    code = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
    return f"<style>{STYLE}</style><script>{code}</script>"


def page(title: str, figure_html: str) -> str:
    """A whole page with one figure."""
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_LAYOUT}</style></head><body><h1>{name}</h1>{figure_html}{script()}</body></html>\n"
    )


def _quantized(vertices: np.ndarray) -> dict[str, Any]:
    """Vertices in 16 bits: to 0.03 mm for somebody of two metres."""
    low = np.float64(vertices).min(axis=0)
    step = max(float((vertices - low).max()) / 65535, 1e-9)
    return {
        "vertices": _base64(np.rint((vertices - low) / step), np.uint16),
        "low": low.tolist(),
        "step": step,
    }


def _moving(motion: Motion) -> dict[str, str]:
    bones = np.argsort(-motion.weights, axis=1)[:, :4]
    weights = np.take_along_axis(motion.weights, bones, axis=1)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return {
        "bones": _base64(bones, np.uint8),
        "weights": _base64(np.rint(65535 * weights), np.uint16),
        "matrices": _base64(motion.matrices, np.float32),
        "seen": _base64(motion.is_seen, np.uint8),
    }


def _base64(array: np.ndarray, kind: type) -> str:
    little_endian = np.dtype(kind).newbyteorder("<")
    return base64.b64encode(np.ascontiguousarray(array, little_endian).tobytes()).decode()
