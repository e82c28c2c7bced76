"""Pictures of what SAT-HMR sees: boxes, scale map, tokens. RGB, px of the input."""

import cv2
import matplotlib
import numpy as np

from hmrkit.models.sathmr.tokens import CELL_PX, PERSON

_WHITE, _MAGENTA, _GREY = (255, 255, 255), (255, 0, 255), 127
_LINE_PX = 2
_FADED = 0.6  # share of the image where nobody is
_COLORED = 0.8  # share of the colour where somebody is
_FINEST_PX = 14
# Of tokens of level 0, 1, and 2 or more.
_TINTS = ((241, 178, 173), (175, 198, 239), _WHITE)
_BLUR_PX = (1, 7, 14)


def pad_to_square(image: np.ndarray, side_px: int) -> np.ndarray:
    """An image (H, W, 3) uint8 at the top left of a grey square."""
    below, right = side_px - image.shape[0], side_px - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=_GREY)


def draw_boxes(image: np.ndarray, boxes_px: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 with boxes (N, 4), x1 y1 x2 y2."""
    drawn = image.copy()
    for x1, y1, x2, y2 in np.asarray(boxes_px).astype(int).tolist():
        cv2.rectangle(drawn, (x1, y1), (x2, y2), _MAGENTA, _LINE_PX)
    return drawn


def draw_scale_map(image: np.ndarray, scale_map: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 under its scale map (rows, columns, 2), small people red.

    Cells in which nobody is are faded, as is what lies outside of the map.
    """
    rows, columns = scale_map.shape[:2]
    faded = _FADED * image + (1 - _FADED) * 255
    cells = scale_map.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    cells = cells[: image.shape[0], : image.shape[1]]
    shade = 1 - np.sqrt(cells[..., 1]).round(2)
    color = 255 * matplotlib.colormaps["coolwarm"](shade)[..., :3]
    inside = np.s_[: cells.shape[0], : cells.shape[1]]
    mixed = _COLORED * color + (1 - _COLORED) * image[inside]
    faded[inside] = np.where(cells[..., :1] > PERSON, mixed, faded[inside])
    drawn = faded.round().astype(np.uint8)
    for row in range(rows):
        for column in range(columns):
            _frame(drawn, row, column, CELL_PX)
    return drawn


def draw_tokens(image: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 as its tokens show it: the coarser a token, the more blurred.

    Args:
        image: its longer side is that of the network's input.
        tokens: (N, 3) level, row and column on the grid of that level.
    """
    drawn = image.copy()
    for level, row, column in np.asarray(tokens).tolist():
        side, kind = _FINEST_PX << level, min(level, 2)
        place = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
        if image[place].size:
            blurred = cv2.blur(image[place], (_BLUR_PX[kind],) * 2)
            drawn[place] = (blurred * 0.5 + np.array(_TINTS[kind]) * 0.5).astype(np.uint8)
    for level, row, column in np.asarray(tokens).tolist():
        _frame(drawn, row, column, _FINEST_PX << level)
    return drawn


def _frame(drawn: np.ndarray, row: int, column: int, side: int) -> None:
    """A white frame around one cell, drawn in place."""
    corners = ((column * side, row * side), ((column + 1) * side, (row + 1) * side))
    cv2.rectangle(drawn, *corners, _WHITE, _LINE_PX)
