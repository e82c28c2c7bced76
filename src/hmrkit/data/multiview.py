"""A calibrated rig -> one crop per view; I = O, P people who share one world."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from hmrkit.data.augment import AugmentParams, mirror_matrix, move_world
from hmrkit.data.crops import Crops, select_persons
from hmrkit.data.images import image_size, pick_images
from hmrkit.data.record import Unusable
from hmrkit.types import Sample


class MultiView:
    """Cuts every view of a rig's record; people may be seen by different numbers of cameras.

    Views come out person by person, so that a method with a constant number of views reshapes
    ``(P, V, ...)``. Every crop is its own image, with the camera it was taken by. Rotation, scale,
    shift and colours are drawn per view and change no label of the world: ``crop_to_img`` holds
    them. A flip is drawn once and mirrors the world and every view. People without a view are left
    out.

    Args:
        crops: how a view is cut; its ``augment`` is used.
        num_views: at most so many views of each person, with ``rng`` drawn and in random order,
            without the first ones; None for all in stored order.
        min_views: with ``rng``, how many views of each person is drawn from this on, so that a
            network meets all numbers; None for always as many as there may be.
        num_views_of_source: sources of which at most so many views are shown, by name: one set of
            rigs under several names is scored per number of views.
        keypoint_crops: how a view is cut a second time, for a network that finds keypoints in
            pictures of another size (``keypoint_image``, ``keypoint_crop_to_img``); with what was
            drawn for the first crop. None for one crop per view.
    """

    unit = "record"

    def __init__(
        self,
        crops: Crops,
        num_views: int | None = None,
        keypoint_crops: Crops | None = None,
        min_views: int | None = None,
        num_views_of_source: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        limits = {"num_views": num_views, "min_views": min_views}
        limits |= {f"num_views_of_source.{k}": v for k, v in num_views_of_source.items()}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"{name}={limit}: a person needs at least one view")
        if min_views is not None and num_views is not None and min_views > num_views:
            raise ValueError(f"min_views={min_views} is more than num_views={num_views}")
        if keypoint_crops is not None and keypoint_crops.augment is not None:
            raise ValueError("keypoint_crops.augment: what crops.augment draws is used; set null")
        self.crops = crops
        self.num_views, self.min_views = num_views, min_views
        self.num_views_of_source = dict(num_views_of_source)
        self.keypoint_crops = keypoint_crops

    def __call__(
        self, sample: Sample, view: int | None = None, rng: np.random.Generator | None = None
    ) -> Sample:
        """Cut the record's views, augmented if there is an ``rng``; ``view`` plays no part."""
        views = self._choose(sample, rng)
        draws = [self.crops.draw(sample, rng) for _ in views]
        is_flipped = bool(draws) and draws[0].is_flipped
        return self.cut(sample, views, draws, is_flipped)

    def cut(
        self, sample: Sample, views: np.ndarray, draws: list[AugmentParams], is_flipped: bool
    ) -> Sample:
        """Cut the given views (O,), one draw each; all flipped or none.

        Raises:
            Unusable: if there is no view, or a view has no usable box.
        """
        if len(views) == 0:
            raise Unusable(f"record {sample['key']!r} has no view; leave it out")
        sample = self.crops.read(sample)
        draws = [replace(draw, is_flipped=is_flipped) for draw in draws]
        first, second = self._cut_views(sample, views, draws)
        parts = [part for _, part in first]
        images = sample["image_of_view"][views]
        persons, person_of_view = np.unique(sample["person_of_view"][views], return_inverse=True)
        moved = move_world(select_persons(sample, persons), mirror_matrix(is_flipped))
        sizes = [image_size(sample["images"], image) for image in images]
        return {
            **moved,
            **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            "images": pick_images(sample["images"], images),
            "intrinsics": moved["intrinsics"][images],
            "intrinsics_of_view": sample["intrinsics_of_view"][views],
            "world_to_camera": moved["world_to_camera"][images],
            "image_of_view": np.arange(len(views)),
            "person_of_view": person_of_view,
            "keypoints_img": sample["keypoints_img"][views],
            "visible_fraction": sample["visible_fraction"][views],
            "input_image": np.stack([pixels for pixels, _ in first]),
            "input_size": np.array([self.crops.input_hw] * len(views)),
            "full_size": np.array(sizes),
            **second,
        }

    def _cut_views(
        self, sample: Sample, views: np.ndarray, draws: list[AugmentParams]
    ) -> tuple[list[tuple[np.ndarray, Sample]], dict[str, np.ndarray]]:
        """What ``crops`` makes of every view, and what ``keypoint_crops`` may add to it."""
        first, second = {}, {}
        # Image by image, so that each is decoded once and the pixels of one at a time are held.
        for i in np.argsort(sample["image_of_view"][views], kind="stable").tolist():
            first[i] = self.crops.cut_view(sample, int(views[i]), draws[i])
            if self.keypoint_crops is not None:
                second[i] = self.keypoint_crops.cut_view(sample, int(views[i]), draws[i])
        in_order = [first[i] for i in range(len(views))]
        if not second:
            return in_order, {}
        keypoint_cuts = [second[i] for i in range(len(views))]
        return in_order, {
            "keypoint_image": np.stack([pixels for pixels, _ in keypoint_cuts]),
            "keypoint_crop_to_img": np.concatenate(
                [part["crop_to_img"] for _, part in keypoint_cuts]
            ),
        }

    def _choose(self, sample: Sample, rng: np.random.Generator | None) -> np.ndarray:
        """Rows of the views to cut, person by person."""
        owner = sample["person_of_view"]
        order = np.arange(len(owner)) if rng is None else rng.permutation(len(owner))
        most = self.num_views_of_source.get(sample["source"], self.num_views)
        chosen = []
        for person in range(len(sample["pose"])):
            views = order[owner[order] == person][:most]
            if rng is not None and self.min_views is not None and len(views) > self.min_views:
                views = views[: rng.integers(self.min_views, len(views) + 1)]
            chosen.append(views)
        return np.concatenate([np.zeros(0, np.int64), *chosen])
