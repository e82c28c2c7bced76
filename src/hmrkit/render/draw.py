"""Pictures for people to look at: overlays, skeletons, boxes, labels, side views, contact sheets.

Images are (H, W, 3) uint8 RGB; every function returns a new one. The centre of the top-left pixel
is (0, 0). Line widths follow the size of the image.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from hmrkit.render.pyrender_backend import NEAR
from hmrkit.render.render import render
from hmrkit.render.shading import Lights

SHIFT = 4  # OpenCV draws at 1/16 px
INK = (40, 40, 44)
Color = tuple[int, int, int]


def overlay(
    image: np.ndarray,
    vertices: Sequence[np.ndarray],
    faces: np.ndarray,
    intrinsics_img: np.ndarray,
    *,
    colors: Sequence[np.ndarray] | np.ndarray | None = None,
    lights: Lights | None = None,
    opacity: float = 1.0,
    backend: str = "auto",
    supersample: int = 2,
) -> np.ndarray:
    """Draw meshes over a photo, anti-aliased; arguments as in ``render``.

    Args:
        image: the photo.
        vertices: P x (V, 3) m in the camera frame of the photo.
        faces: (F, 3).
        intrinsics_img: (3, 3) px of the photo.
        colors: P colours, (3,) or (V, 3) in [0, 1]; default: another pastel for each person.
        lights: default: a soft studio.
        opacity: of the bodies; 1 hides the photo behind them.
        backend: "auto", "numpy" or "pyrender".
        supersample: samples per pixel and axis of the NumPy backend.
    """
    window = _where_drawn(vertices, intrinsics_img, image.shape[:2])
    rows, columns = window
    camera = np.array(intrinsics_img, np.float64)
    camera[:2, 2] -= columns.start, rows.start
    drawn = image.copy()
    drawn[window] = render(
        vertices,
        faces,
        camera,
        drawn[window].shape[:2],
        colors=colors,
        lights=lights,
        background=image[window],
        backend=backend,
        supersample=supersample,
    ).rgb
    return drawn if opacity >= 1 else cv2.addWeighted(drawn, opacity, image, 1 - opacity, 0)


def _where_drawn(
    vertices: Sequence[np.ndarray], intrinsics_img: np.ndarray, size_hw: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns that meshes can touch; everything if somebody is beside the camera."""
    points = np.concatenate(list(vertices)) if len(vertices) else np.zeros((0, 3))
    height, width = size_hw
    if len(points) and points[:, 2].min() > NEAR:
        rays = points @ np.asarray(intrinsics_img).T
        pixels = rays[:, :2] / rays[:, 2:]
        low, high = np.floor(pixels.min(axis=0)) - 1, np.ceil(pixels.max(axis=0)) + 2
        left, right = np.clip([low[0], high[0]], 0, width).astype(int).tolist()
        top, bottom = np.clip([low[1], high[1]], 0, height).astype(int).tolist()
        if left < right and top < bottom:
            return slice(top, bottom), slice(left, right)
    return slice(0, height), slice(0, width)


def side_view(
    vertices: Sequence[np.ndarray],
    faces: np.ndarray,
    *,
    size_hw: tuple[int, int] = (512, 512),
    angle_deg: float = 90.0,
    around: np.ndarray | None = None,
    colors: Sequence[np.ndarray] | np.ndarray | None = None,
    backend: str = "auto",
    supersample: int = 2,
) -> np.ndarray:
    """See the people from another side: walk round them by ``angle_deg`` and fit all in the image.

    90 looks from the camera's right. Several angles in a ``contact_sheet`` make a turntable. Frames
    of a video keep one camera if all are given the same points ``around`` (N, 3), which it fits in
    instead of the people.
    """
    height, width = size_hw
    focal_px = 2.0 * max(size_hw)
    camera = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])
    if len(vertices) == 0:
        return render([], faces, camera, size_hw, backend=backend).rgb
    points = np.stack(vertices).astype(np.float64)
    angle = np.radians(angle_deg)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    shown = points.reshape(-1, 3) if around is None else np.asarray(around, np.float64)
    points, shown = ((p - _middle(shown)) @ turn.T for p in (points, shown))
    points, shown = (p - _middle(shown) for p in (points, shown))
    # The nearest camera at which every point is inside 92 % of the image.
    half = 0.46 * np.array([width, height]) / focal_px
    distance = np.max(np.abs(shown[..., :2]) / half - shown[..., 2:])
    points[..., 2] += max(distance, 0.5 - shown[..., 2].min())
    people = list(points.astype(np.float32))
    return render(
        people, faces, camera, size_hw, colors=colors, backend=backend, supersample=supersample
    ).rgb


def _middle(points: np.ndarray) -> np.ndarray:
    flat = points.reshape(-1, 3)
    return (flat.min(0) + flat.max(0)) / 2


def draw_skeleton(
    image: np.ndarray,
    keypoints_img: np.ndarray,
    edges: Sequence[tuple[int, int]],
    *,
    min_confidence: float = 0.0,
    color: Color | None = None,
) -> np.ndarray:
    """Draw bones and joints.

    Args:
        image: the photo.
        keypoints_img: (K, 2) px or (K, 3) px + confidence; NaN, or a confidence of
            ``min_confidence`` or less, is not drawn.
        edges: pairs of rows, ``joints.skeleton(joint_set)``.
        min_confidence: see above.
        color: of the bones; default: a hue for each.
    """
    result = image.copy()
    width = _line_width(image)
    points = np.asarray(keypoints_img, np.float64)
    limit = 8 * max(image.shape[:2])  # OpenCV's fixed-point coordinates overflow far outside
    is_drawn = np.isfinite(points[:, :2]).all(1) & (np.abs(points[:, :2]) < limit).all(1)
    if points.shape[1] == 3:
        is_drawn &= points[:, 2] > min_confidence
    fixed = np.zeros((len(points), 2), int)
    fixed[is_drawn] = np.rint(points[is_drawn, :2] * 2**SHIFT)
    bones = [(a, b) for a, b in edges if is_drawn[a] and is_drawn[b]]
    hues = {edge: i / max(len(edges), 1) for i, edge in enumerate(edges)}
    # A dark line below each coloured one: visible on any photo.
    for a, b in bones:
        cv2.line(result, fixed[a].tolist(), fixed[b].tolist(), INK, width + 2, cv2.LINE_AA, SHIFT)
    for a, b in bones:
        paint = color or _hue(hues[(a, b)])
        cv2.line(result, fixed[a].tolist(), fixed[b].tolist(), paint, width, cv2.LINE_AA, SHIFT)
    used = sorted({joint for edge in edges for joint in edge}) if edges else range(len(points))
    for joint in used:
        if is_drawn[joint]:
            for radius, paint in ((width + 1.5, INK), (width + 0.5, (255, 255, 255))):
                size = round(radius * 2**SHIFT)
                cv2.circle(result, fixed[joint].tolist(), size, paint, -1, cv2.LINE_AA, SHIFT)
    return result


def draw_box(
    image: np.ndarray,
    box_img: np.ndarray,
    *,
    label: str = "",
    color: Color = (255, 208, 90),
) -> np.ndarray:
    """Draw a box, (4,) x1 y1 x2 y2 px, with an optional label on its top edge."""
    result = image.copy()
    x1, y1, x2, y2 = np.asarray(box_img, np.float64)
    limit = 8 * max(image.shape[:2])
    fixed = np.rint(np.clip([[x1, y1], [x2, y2]], -limit, limit) * 2**SHIFT).astype(int).tolist()
    width = max(1, _line_width(image) - 1)
    cv2.rectangle(result, *fixed, INK, width + 2, cv2.LINE_AA, SHIFT)
    cv2.rectangle(result, *fixed, color, width, cv2.LINE_AA, SHIFT)
    if label:
        return draw_label(result, label, (x1, y1), color=color, is_above=True)
    return result


def draw_label(
    image: np.ndarray,
    text: str,
    corner_img: tuple[float, float],
    *,
    color: Color = (255, 255, 255),
    is_above: bool = False,
) -> np.ndarray:
    """Write text on a coloured plate whose top-left (or bottom-left) corner is ``corner_img`` px.

    The plate is moved so that it stays inside the image. OpenCV's font has ASCII only.
    """
    result = image.copy()
    scale = max(0.4, min(image.shape[:2]) / 1100)
    thickness = max(1, round(1.6 * scale))
    (wide, high), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    pad = max(2, round(5 * scale))
    plate_w, plate_h = wide + 2 * pad, high + base + 2 * pad
    x, y = corner_img[0], corner_img[1] - (plate_h if is_above else 0)
    x = round(float(np.clip(x, 0, max(0, image.shape[1] - plate_w))))
    y = round(float(np.clip(y, 0, max(0, image.shape[0] - plate_h))))
    result[y : y + plate_h, x : x + plate_w] = color
    origin = (x + pad, y + pad + high)
    style = (cv2.FONT_HERSHEY_SIMPLEX, scale, INK, thickness, cv2.LINE_AA)
    return cv2.putText(result, text, origin, *style)


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    titles: Sequence[str] | None = None,
    *,
    cell_hw: tuple[int, int] | None = None,
    gap_px: int = 6,
) -> np.ndarray:
    """Lay images out in a grid, row by row, on white; each is fitted into its cell, never cropped.

    Args:
        images: any sizes.
        columns: cells per row.
        titles: one per image, written above it.
        cell_hw: cell height and width in px; default: the largest image.
        gap_px: between and around the cells.

    Raises:
        ValueError: if there is no image, no column, or not one title per image.
    """
    if not len(images) or columns < 1:
        raise ValueError(f"contact_sheet needs images and columns, got {len(images)} and {columns}")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images; give one for each")
    sizes = np.array([image.shape[:2] for image in images])
    cell_h, cell_w = cell_hw or sizes.max(0).tolist()
    scale = max(0.35, min(cell_h, cell_w) / 700)
    title_h = round(34 * scale) if titles is not None else 0
    rows = -(-len(images) // columns)
    step_y, step_x = cell_h + title_h + gap_px, cell_w + gap_px
    sheet = np.full((rows * step_y + gap_px, columns * step_x + gap_px, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap_px + (i // columns) * step_y, gap_px + (i % columns) * step_x
        cell = sheet[top + title_h : top + title_h + cell_h, left : left + cell_w]
        _fit_into(cell, image)
        if titles is not None:
            text = _shorten(titles[i], scale, cell_w)
            style = (cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)
            cv2.putText(sheet, text, (left + 1, top + round(0.7 * title_h)), *style)
    return sheet


def _fit_into(cell: np.ndarray, image: np.ndarray) -> None:
    """Write the image into the middle of the cell, scaled down or up to touch its border."""
    factor = min(cell.shape[0] / image.shape[0], cell.shape[1] / image.shape[1])
    height = max(1, min(cell.shape[0], round(image.shape[0] * factor)))
    width = max(1, min(cell.shape[1], round(image.shape[1] * factor)))
    if (height, width) != image.shape[:2]:
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, (width, height), interpolation=method)
    top, left = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
    cell[top : top + height, left : left + width] = image


def _shorten(text: str, scale: float, width_px: int) -> str:
    """Cut the text so that it fits, with two dots where it was cut."""
    cut = text
    while (
        len(cut) > 1 and cv2.getTextSize(cut, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] > width_px
    ):
        cut = f"{cut.removesuffix('..')[:-1]}.."
    return cut


def save_image(path: str | Path, image: np.ndarray) -> Path:
    """Write an RGB image; the suffix (.png, .jpg, .webp) chooses the format. Makes the folder.

    Raises:
        ValueError: for an unknown suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path.name}: a picture's name must end in .png, .jpg or .webp")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix.lower() in (".jpg", ".jpeg") else []
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    path.write_bytes(data.tobytes())  # unlike imwrite, this says why it failed
    return path


def _line_width(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) / 220))


def _hue(share: float) -> Color:
    """A bright colour of the hue circle; share in [0, 1)."""
    pixel = np.array([[[round(180 * share) % 180, 170, 255]]], np.uint8)
    red, green, blue = cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue
