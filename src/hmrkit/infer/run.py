"""What the demo does: check everything cheap, load the checkpoint, then input by input."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from hmrkit.infer import boxes, exports, inputs, picture_files
from hmrkit.infer.plan import Plan, chosen, journal_of, make_plan, scores
from hmrkit.infer.processes import in_processes

log = logging.getLogger(__name__)


def demo_pictures(config: DictConfig) -> dict[str, str]:
    """Run the composed ``demo.yaml``.

    Returns:
        Pictures and videos that gave nothing: name -> reason.

    Raises:
        FileNotFoundError: no such checkpoint, input or boxes file.
        ValueError: an option that cannot work, or not one picture that does.
    """
    plan = make_plan(config)
    for kind, there, what in (
        ("bvh", plan.images, "videos"),
        ("maps", plan.videos, "pictures"),
    ):
        if kind in config.formats and there:
            log.warning("formats: %s is of %s alone", kind, what)
    if plan.num_before:
        log.info("%d done by an earlier run: left as they are", plan.num_before)
    skipped = {**plan.skipped, **in_processes(_do_share, config, plan)}
    _summarise(plan, skipped, Path(config.run_dir))
    return skipped


def _do_share(config: DictConfig, plan: Plan, names: Sequence[str]) -> dict[str, str]:
    """Some of the inputs, one after the other; what gave nothing: name -> reason."""
    from hmrkit.infer.loading import load_for_pictures

    module, cut = load_for_pictures(Path(config.checkpoint), config.device, config.trusted)
    _set_adapt(module, config)
    detector = chosen(config.detector)
    if cut.unit == "record" and (config.boxes is not None or detector is not None):
        raise ValueError(
            "this method looks at whole pictures and finds people itself: no boxes=, no detector="
        )
    is_told = config.boxes is not None or config.keypoints is not None or detector is not None
    if cut.unit == "view" and not is_told:
        log.warning("no boxes=, keypoints= or detector=: the whole picture is taken for one person")
    demo = _Demo(module, cut, detector, config, plan)
    journal, skipped = journal_of(config), {}
    for name in names:
        path = plan.videos.get(name) or plan.images[name]
        try:
            reason = demo.video(name) if name in plan.videos else demo.picture(name)
        except ValueError as error:  # a broken file must not stop the others
            reason = str(error)
        if reason:
            skipped[name] = reason
        else:
            journal.add(name, path)
    return skipped


class _Demo:
    """A loaded method, and what the options say about it."""

    def __init__(
        self, module: Any, cut: Any, detector: Any, config: DictConfig, plan: Plan
    ) -> None:
        self._module, self._cut, self._detector = module, cut, detector
        self._config, self._plan = config, plan
        self._about = {
            "method": np.array(type(module.net).__name__.lower()),
            "checkpoint": np.array(Path(config.checkpoint).name),
        }

    def video(self, name: str) -> str | None:
        """All files of one video; why there are none."""
        from hmrkit.infer.clips import demo_clip

        about = {key: str(value) for key, value in self._about.items()}
        path = self._plan.videos[name]
        return demo_clip(self._module, self._cut, self._detector, name, path, self._config, about)

    def picture(self, name: str) -> str | None:
        """All files of one picture; why there are none."""
        path, config = self._plan.images[name], self._config
        image = inputs.read_image(path)
        about = self._about | {"image": np.array(path.name)}
        for stem, people in self._people(name, image):
            if people is None:
                return f"{path}: the detector finds nobody"
            if not np.isfinite(people["vertices_cam"]).all():
                return f"{path}: the prediction is not finite; is the checkpoint trained?"
            picture_files.write(Path(config.run_dir) / stem, image, people | about, config)
            log.info("%s: %s", path, _describe(people))
        return None

    def _people(
        self, name: str, image: np.ndarray
    ) -> Iterator[tuple[str, dict[str, np.ndarray] | None]]:
        """The keys of ``exports.PEOPLE_SCHEMA`` that are about people, by name of the files."""
        if self._cut.unit != "view":
            yield from self._scene(name, image)
            return
        from hmrkit.infer.predict import predict_people

        found = self._plan.people.get(name)
        if found is None and self._detector is not None:
            found = self._detector([image])[0].largest(
                self._config.max_people, self._config.min_height_px
            )
            if not len(found.boxes_img):
                yield name, None
                return
        if found is None:  # the network sees the whole picture and no margin around it
            whole = boxes.whole_image_box(image.shape[:2])
            found = boxes.plain(boxes.shrink_box(whole, self._cut.box_scale)[None])
        people = predict_people(
            self._module,
            self._cut,
            image,
            found.boxes_img,
            focal_px=self._focal_px(name),
            joint_set=self._config.joint_set,
            batch_size=self._config.batch_size,
            keypoints=found.keypoints if self._config.keypoints is not None else None,
        )
        yield name, people | {"score": found.scores}

    def _scene(self, name: str, image: np.ndarray) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Everybody whom a method finds in a picture, for each score that is asked for."""
        from hmrkit.infer.scenes import predict_scene
        from hmrkit.render import draw

        wanted = scores(self._config)
        everybody, maps = predict_scene(
            self._module,
            self._cut,
            image,
            wanted,
            focal_px=self._focal_px(name),
            joint_set=self._config.joint_set,
            with_maps="maps" in self._config.formats,
        )
        for kind, picture in maps.items():
            stem = Path(self._config.run_dir) / name
            draw.save_image(exports.named(stem, f"_{kind}.jpg"), picture)
        for score, people in zip(wanted, everybody, strict=True):
            yield (name if len(wanted) == 1 else f"score_{score:g}/{name}"), people

    def _focal_px(self, name: str) -> float | None:
        given = self._config.focal_px
        if given != "exif":
            return given
        focal = inputs.exif_focal_px(self._plan.images[name])
        if focal is None:
            log.info("%s has no focal length in EXIF: the method's own is taken", name)
        return focal


def _set_adapt(module: Any, config: DictConfig) -> None:
    """Test-time optimisation as the options say, or the checkpoint, if there is evidence."""
    from hmrkit.checkpoints import set_adapt

    set_adapt(module, config.get("adapt"))
    if module.adapt is None:
        return
    if config.keypoints is None:
        log.info("no test-time optimisation, which the checkpoint brings: it needs keypoints=")
        module.adapt = None
    else:
        module.adapt.take_as_given()
        module.adapt.to(module.device)


def _describe(people: Mapping[str, np.ndarray]) -> str:
    num, shift = len(people["pose"]), float(people["camera_shift_px"].max(initial=0))
    text = f"{num} {'person' if num == 1 else 'people'}"
    return text if shift < 1 else f"{text}; the shared camera moves points by up to {shift:.0f} px"


def _summarise(plan: Plan, skipped: Mapping[str, str], output: Path) -> None:
    num_all = len(plan.images) + len(plan.videos)
    kind = "pictures" if not plan.videos else "videos" if not plan.images else "inputs"
    for reason in skipped.values():
        log.warning("skipped: %s", reason)
    if len(skipped) == num_all:
        raise ValueError(f"nothing came of any of the {num_all} {kind}, see above")
    log.info("%d of %d %s done: %s", num_all - len(skipped), num_all, kind, output)
