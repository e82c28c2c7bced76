"""Who the rows of a test are, and in what circumstances each person was seen.

Every column has a row per labelled person of a batch and a last one for nobody, (P + 1,), so that
row -1 is that of somebody who was found and is not labelled.
"""

import numpy as np
import torch

from hmrkit.types import Batch, Prediction


def who(batch: Batch) -> dict[str, np.ndarray]:
    """``key``, ``index`` of the unit in the test set, ``person`` within the unit."""
    keys, index = np.asarray(batch["key"]), batch["index"].cpu().numpy()
    if "image_of_view" in batch:  # of motion, keys are the persons' already
        persons = batch["person_of_view"].cpu().numpy()
        _, first = np.unique(persons, return_index=True)
        keys = keys[batch["image_of_view"].cpu().numpy()[first]]
    _, first, unit = np.unique(index, return_index=True, return_inverse=True)
    person = np.arange(len(index)) - first[unit]
    return {
        "key": np.append(keys, ""),
        "index": np.append(index, -1),
        "person": np.append(person, -1),
    }


def circumstances(batch: Batch) -> dict[str, np.ndarray]:
    """``_box_px``, ``_visible`` and ``_person_id``; of people in several views, the first view's.

    They are the longer side of the tight box in the source image, the share of the person that is
    seen (NaN where no label says so), and a number that is the same within a clip (or -1).
    """
    num = len(batch["has_pose"])
    box_px, visible = torch.full((2, num + 1), torch.nan)
    person_id = torch.full((num + 1,), -1, dtype=torch.int64)
    if "person_of_view" in batch:
        owner = batch["person_of_view"].cpu().flip(0)  # the first view is written last
        low, high = batch["box_img"].cpu().float().flip(0).chunk(2, dim=-1)
        box_px[owner] = (high - low).amax(dim=-1)
        if "visible_fraction" in batch:
            visible[owner] = batch["visible_fraction"].cpu().float().flip(0)
    if "person_id" in batch:
        person_id[:num] = batch["person_id"].cpu()
    return {
        "_box_px": box_px.numpy(),
        "_visible": visible.numpy(),
        "_person_id": person_id.numpy(),
    }


def adaptation_curves(prediction: Prediction) -> dict[str, np.ndarray]:
    """``curve<i>_<loss>`` of test-time optimisation; none without it."""
    curve = prediction.extra.get("adapt_keypoints2d")  # (P, num_steps + 1)
    if curve is None:
        return {}
    steps = np.pad(curve.float().cpu().numpy(), ((0, 1), (0, 0)), constant_values=np.nan).T
    return {f"curve{i}_keypoints2d": values for i, values in enumerate(steps)}
