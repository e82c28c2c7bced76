"""OpenGL drawing through pyrender 0.1.45, for machines with a graphics card.

pyrender is unmaintained; what works round it here: its viewer (and with it pyglet, which needs X)
is never imported; shadows and ``bounds`` (broken with NumPy 2) are not used; there is one renderer
per process, because meshes are bound to the context that drew them first and contexts do not
survive a fork. Colours come lit per vertex, so pyrender only interpolates them.
"""

import functools
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

NEAR = 0.05  # m, as in rasterize; OpenGL clips faces there where NumPy drops them
SOFTWARE_GL = ("llvmpipe", "softpipe", "swrast", "software")
REMEDY = (
    "backend='pyrender' needs pyrender and an OpenGL library that works without a screen. "
    "On Debian or Ubuntu: apt-get install libegl1 libgl1 (and the driver of your graphics card). "
    "Or use backend='numpy', which needs neither. python -m hmrkit.doctor shows what is here."
)


def hardware_renderer() -> tuple[str | None, str]:
    """Name of the graphics card that OpenGL would draw with, or None and the reason why not."""
    if sys.platform != "linux":
        return None, "off-screen OpenGL is only looked for on Linux"
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dri/renderD*")]
    if not devices:  # importing pyrender takes 0.7 s: look first
        return None, "no graphics device in /dev"
    try:
        name = opengl_renderer()
    except RuntimeError as error:
        return None, f"no OpenGL: {error.__cause__}"
    if any(word in name.lower() for word in SOFTWARE_GL):
        return None, f"OpenGL is software: {name}"
    return name, ""


def opengl_renderer() -> str:
    """What draws, in OpenGL's words.

    Raises:
        RuntimeError: if there is no OpenGL here; says what to install.
    """
    _renderer(os.getpid())
    from OpenGL.GL import GL_RENDERER, glGetString

    return glGetString(GL_RENDERER).decode()


def draw(
    people_cam: np.ndarray,
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    size_hw: tuple[int, int],
    colors: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw P people, (P, V, 3) m, with lit vertex colours, (P, V, 3) in [0, 1].

    Returns:
        (H, W, 3) float32 colour in [0, 255] premultiplied by the coverage (4 samples per pixel are
        averaged over a black clear colour), (H, W) coverage in [0, 1], (H, W) depth in m (inf where
        nothing is) and (H, W) int32 person ids, both sampled at pixel centres.

    Raises:
        RuntimeError: if there is no OpenGL here; says what to install.
    """
    renderer = _renderer(os.getpid())
    import pyrender

    height, width = size_hw
    renderer.viewport_width, renderer.viewport_height = width, height
    scene = pyrender.Scene(bg_color=[0.0, 0.0, 0.0, 0.0])
    gl_axes = people_cam * np.array([1, -1, -1], np.float32)  # OpenGL: y up, looking along -z
    nodes = {}
    for person, (positions, color) in enumerate(zip(gl_axes, colors, strict=True)):
        primitive = pyrender.Primitive(
            positions=positions, indices=faces.astype(np.uint32), color_0=color, mode=4
        )
        number = person + 1  # 0 is the background
        code = [number & 255, number >> 8 & 255, number >> 16 & 255]
        nodes[scene.add(pyrender.Mesh([primitive]))] = code
    depths = people_cam[:, :, 2]
    camera = pyrender.IntrinsicsCamera(
        fx=intrinsics_img[0, 0],
        fy=intrinsics_img[1, 1],
        cx=intrinsics_img[0, 2] + 0.5,  # OpenGL's pixel centres are at .5
        cy=intrinsics_img[1, 2] + 0.5,
        znear=max(NEAR, 0.9 * float(depths.min())),  # tight: depth has 24 bits
        zfar=max(2 * NEAR, 1.1 * float(depths.max())),
    )
    scene.add(camera)
    flags = pyrender.RenderFlags
    rgba, _ = renderer.render(scene, flags.FLAT | flags.RGBA)
    code, depth = renderer.render(scene, flags.SEG, nodes)  # without multisampling: pixel centres
    code = code.astype(np.int32)
    person_id = (code[..., 0] | code[..., 1] << 8 | code[..., 2] << 16) - 1
    depth = np.where(person_id >= 0, depth, np.float32(np.inf))
    return rgba[..., :3].astype(np.float32), rgba[..., 3] / np.float32(255), depth, person_id


@functools.cache
def _renderer(process: int) -> Any:
    """The off-screen renderer of this process; a fork must neither use nor free its parent's."""
    if "OpenGL" not in sys.modules and sys.platform == "linux":
        # The only way to tell PyOpenGL which library to load; without it, it wants an X server.
        os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    if "pyrender" not in sys.modules:
        viewer = types.ModuleType("pyrender.viewer")
        viewer.Viewer = None
        sys.modules["pyrender.viewer"] = viewer
    try:
        import pyrender

        return pyrender.OffscreenRenderer(64, 64)
    except Exception as error:  # ctypes, PyOpenGL and pyrender raise eight kinds between them
        raise RuntimeError(f"{REMEDY} (It said: {type(error).__name__}: {error})") from error
