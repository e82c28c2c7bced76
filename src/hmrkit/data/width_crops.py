"""Crops as wide as the box, whatever its height."""

import numpy as np

from hmrkit.data.crops import Crops


class WidthCrops(Crops):
    """As ``Crops``, but the width of the box alone decides how much is shown.

    What of a tall box sticks out above and below is cut off, as in the 2D stage of HeatFormer.
    ``fit_aspect_hw`` plays no part.
    """

    def _region(self, box: np.ndarray) -> tuple[np.ndarray, float]:
        """Centre (2,) and height, px, of what is shown of a box (4,) without augmentation."""
        x1, y1, x2, y2 = np.asarray(box, np.float64)
        if not (x2 > x1 and y2 > y1):
            raise ValueError(f"box {box.tolist()} is not x1, y1, x2, y2 with x1 < x2 and y1 < y2")
        height, width = self.input_hw
        center = np.array([x1 + x2, y1 + y2]) / 2
        return center, float(self.box_scale * (x2 - x1) * height / width)
