"""hmrkit from other people's code: a checkpoint in, people out.

    from hmrkit.api import load, predict

    model = load("runs/quickstart/checkpoints/last.ckpt")
    people = predict(model, image)  # a PIL picture, an (H, W, 3) uint8 array, or a path
    people.vertices_cam  # (N, V, 3) metres
    people.joint("left_wrist")  # (N, 3) metres
    people.save("people.glb")

This is the one module whose names, arguments, fields, frames and units stay as they are until a new
major version says otherwise. Everything else of hmrkit may change in any version.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from hmrkit.body import joints
from hmrkit.infer import exports, inputs
from hmrkit.infer.boxes import read_boxes, shrink_box, whole_image_box
from hmrkit.render import draw
from hmrkit.render.render import PALETTE

Picture = NDArray[np.uint8] | Image.Image | str | Path
_SUFFIXES = (".npz", ".glb", ".obj")


@dataclass(frozen=True)
class Model:
    """A network that is ready to be shown pictures; made by ``load``.

    Attributes:
        method: name of the network, such as "hmr" or "sathmr".
        checkpoint: name of its file.
        body: name of the body model that poses, shapes and meshes belong to.
        device: where it computes.
        finds_people: whether it sees whole pictures and finds people itself. Else it looks at
            boxes: those it is given, or the whole picture.
    """

    method: str
    checkpoint: str
    body: str
    device: str
    finds_people: bool
    _module: Any
    _cut: Any


@dataclass(frozen=True)
class People:
    """The N people in one picture, N >= 0.

    The camera frame is x right, y down, z forward, in metres, the camera at the origin; all people
    of a picture stand before the same camera. Pixels are those of the upright picture; the centre
    of the first one is (0, 0). Every array is float32 unless stated.

    Attributes:
        image_size: height and width of the picture, px, int64.
        box_img: (N, 4) x1 y1 x2 y2 px, where each person was looked for or found.
        score: (N,) how sure a method is that somebody is there; NaN for people in given boxes.
        vertices_cam: (N, V, 3) m.
        faces: (F, 3) int32, triangles of each mesh.
        joint_names: K names, those of the joint set that was asked for; a prefix says by whose
            definition: spin_left_wrist, openpose_left_wrist (``joint("left_wrist")`` finds either).
        joints_cam: (N, K, 3) m.
        keypoints_img: (N, K, 2) px, ``joints_cam`` as the camera sees them.
        intrinsics_img: (3, 3) px, the camera.
        pose: (N, 24, 3) rotations of SMPL's joints as axis-angle, radians; the first takes the body
            to the camera frame.
        betas: (N, 10) SMPL's shape.
        transl_cam: (N, 3) m, SMPL's translation: ``vertices_cam = SMPL(pose, betas) + transl_cam``.
        body: name of the body model; parameters of one mean nothing to another.
    """

    image_size: NDArray[np.int64]
    box_img: NDArray[np.float32]
    score: NDArray[np.float32]
    vertices_cam: NDArray[np.float32]
    faces: NDArray[np.int32]
    joint_names: tuple[str, ...]
    joints_cam: NDArray[np.float32]
    keypoints_img: NDArray[np.float32]
    intrinsics_img: NDArray[np.float32]
    pose: NDArray[np.float32]
    betas: NDArray[np.float32]
    transl_cam: NDArray[np.float32]
    body: str
    _arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.pose)

    def joint(self, name: str) -> NDArray[np.float32]:
        """A joint of everybody, (N, 3) m, camera frame."""
        return self.joints_cam[:, self._place(name)]

    def keypoint(self, name: str) -> NDArray[np.float32]:
        """A joint of everybody in the picture, (N, 2) px."""
        return self.keypoints_img[:, self._place(name)]

    def overlay(self, image: Picture) -> NDArray[np.uint8]:
        """The people drawn over their picture, (H, W, 3) uint8 RGB."""
        return draw.overlay(
            _read(image),
            list(self.vertices_cam),
            self.faces,
            self.intrinsics_img,
            colors=self._colors(),
        )

    def save(self, path: str | Path) -> None:
        """Write ``.npz`` with everything, or the meshes as ``.glb`` or ``.obj``.

        The keys of the npz are those of ``python -m hmrkit.demo`` (docs/faq.md). 3D files have y up
        and look along -z, as glTF does.

        Raises:
            ValueError: for another ending, or meshes of nobody.
        """
        path = Path(path)
        if path.suffix not in _SUFFIXES:
            raise ValueError(f"{path}: end it in {', '.join(_SUFFIXES)}")
        if path.suffix == ".npz":
            return exports.write_npz(path, self._arrays)
        if not len(self):
            raise ValueError(f"{path}: there is nobody in the picture")
        write = exports.write_glb if path.suffix == ".glb" else exports.write_obj
        return write(path, self.vertices_cam, self.faces, (255 * self._colors()).astype(np.uint8))

    def _colors(self) -> np.ndarray:
        return PALETTE[np.arange(len(self)) % len(PALETTE)]

    def _place(self, name: str) -> int:
        fits = [n for n in self.joint_names if n == name]
        fits = fits or [n for n in self.joint_names if n.partition("_")[2] == name]
        if len(fits) != 1:
            is_open = f"{name!r} may be {' or '.join(fits)}" if fits else f"no joint {name!r}"
            raise ValueError(f"{is_open}; there are {', '.join(self.joint_names)}")
        return self.joint_names.index(fits[0])


def load(checkpoint: str | Path, device: str = "auto", trusted: Sequence[str] = ()) -> Model:
    """A checkpoint of ``hmrkit.train`` or ``hmrkit.convert``, ready for ``predict``.

    Nothing in the file is executed.

    Args:
        checkpoint: the file.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        trusted: packages, beside hmrkit and torch, whose classes the checkpoint may name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint of hmrkit, its method needs several cameras, or the
            device cannot be used.
    """
    from hmrkit.infer.loading import load_for_pictures

    module, cut = load_for_pictures(Path(checkpoint), device, trusted)
    module.adapt = None  # test-time optimisation needs evidence that pictures do not bring
    return Model(
        method=type(module.net).__name__.lower(),
        checkpoint=Path(checkpoint).name,
        body=module.body.name,
        device=str(module.device),
        finds_people=cut.unit == "record",
        _module=module,
        _cut=cut,
    )


@overload
def predict(
    model: Model,
    images: Picture,
    boxes: ArrayLike | None = None,
    *,
    focal_px: float | None = None,
    joint_set: str = "smpl24",
    min_score: float = 0.5,
    batch_size: int = 32,
) -> People: ...


@overload
def predict(
    model: Model,
    images: Sequence[Picture],
    boxes: Sequence[ArrayLike | None] | None = None,
    *,
    focal_px: float | Sequence[float | None] | None = None,
    joint_set: str = "smpl24",
    min_score: float = 0.5,
    batch_size: int = 32,
) -> list[People]: ...


def predict(
    model: Model,
    images: Any,
    boxes: Any = None,
    *,
    focal_px: Any = None,
    joint_set: str = "smpl24",
    min_score: float = 0.5,
    batch_size: int = 32,
) -> Any:
    """The people in one picture, or in each of several; these share batches.

    Args:
        model: of ``load``.
        images: (H, W, 3) uint8 RGB (OpenCV reads BGR: ``image[..., ::-1]``), a PIL picture, or a
            path; or a list of them.
        boxes: for methods that look at boxes: (N, 4) x1 y1 x2 y2 px, or None for the whole picture;
            for a list of pictures a list of these. N may be 0.
        focal_px: focal length of the pictures, or of each, if it is known; None takes the method's
            own assumption, with which distances mean little.
        joint_set: of the joints: smpl24, coco17, openpose25, h36m17, ... (``hmrkit.body.joints``).
        min_score: for methods that find people: who scores above is somebody.
        batch_size: people per forward pass, for methods that look at boxes.

    Raises:
        FileNotFoundError: if there is no such picture.
        ValueError: for pictures, boxes or joint sets that cannot be, and predictions that are not
            finite.
    """
    is_single = isinstance(images, np.ndarray | Image.Image | str | Path)
    if is_single:
        all_boxes, focals = [boxes], [focal_px]
        pictures = [_read(images)]
    else:
        pictures = [_read(image) for image in images]
        all_boxes = [None] * len(pictures) if boxes is None else list(boxes)
        is_one = focal_px is None or np.isscalar(focal_px)
        focals = [focal_px] * len(pictures) if is_one else list(focal_px)
        for name, given in (("boxes", all_boxes), ("focal_px", focals)):
            if len(given) != len(pictures):
                raise ValueError(f"{name}: {len(given)} for {len(pictures)} pictures")
    if model.finds_people:
        if any(one is not None for one in all_boxes):
            raise ValueError(f"{model.method} finds people itself: no boxes")
        found = _in_scenes(model, pictures, focals, joint_set, min_score)
    else:
        found = _in_boxes(model, pictures, all_boxes, focals, joint_set, batch_size)
    people = [_people(model, arrays, number) for number, arrays in enumerate(found)]
    return people[0] if is_single else people


def _in_scenes(
    model: Model,
    pictures: Sequence[np.ndarray],
    focals: Sequence[float | None],
    joint_set: str,
    min_score: float,
) -> list[dict[str, np.ndarray]]:
    from hmrkit.infer.scenes import predict_scene

    found = []
    for image, focal_px in zip(pictures, focals, strict=True):
        (people,), _ = predict_scene(
            model._module, model._cut, image, [min_score], focal_px=focal_px, joint_set=joint_set
        )
        found.append(people)
    return found


def _in_boxes(
    model: Model,
    pictures: Sequence[np.ndarray],
    boxes: Sequence[ArrayLike | None],
    focals: Sequence[float | None],
    joint_set: str,
    batch_size: int,
) -> list[dict[str, np.ndarray]]:
    """Crops of all pictures together; then each picture's people before its one camera."""
    from hmrkit.infer.predict import make_sample, people_arrays, predict_crops

    asked, crops = [], []
    for number, (image, given, focal_px) in enumerate(zip(pictures, boxes, focals, strict=True)):
        whole = whole_image_box(image.shape[:2])[None]
        box_img = whole if given is None else _checked(given, number, image.shape[:2])
        if given is None or not len(box_img):  # where nobody is, it is for the camera alone
            shown = shrink_box(whole[0], model._cut.box_scale)[None]  # without a margin around it
        else:
            shown = box_img
        sample = make_sample(image, shown, focal_px)
        crops += [model._cut(sample, view, None) for view in range(len(shown))]
        asked.append(box_img)
    if not crops:
        return []
    rows = predict_crops(model._module, crops, joint_set=joint_set, batch_size=batch_size)
    body_model = model._module.body
    constants = {
        "faces": body_model.faces.cpu().numpy().astype(np.int32),
        "joint_names": np.array(joints.names(joint_set)),
        "body": np.array(body_model.name),
    }
    found, start = [], 0
    for image, box_img, focal_px in zip(pictures, asked, focals, strict=True):
        stop = start + max(1, len(box_img))
        own = {name: value[start:stop] for name, value in rows.items()}
        people = people_arrays(own, image.shape[:2], focal_px)
        people |= {"box_img": box_img, "score": np.full(len(box_img), np.nan, np.float32)}
        if not len(box_img):
            people = {
                name: value[:0] if _is_per_person(name) else value for name, value in people.items()
            }
        found.append(people | constants)
        start = stop
    return found


def _checked(boxes: ArrayLike, number: int, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    name = f"picture {number}"
    return read_boxes(np.asarray(boxes).tolist(), {name: Path(name)}, {name: size_hw})[name]


def _is_per_person(key: str) -> bool:
    return exports.PEOPLE_SCHEMA[key][0].startswith("(N")


def _people(model: Model, arrays: dict[str, np.ndarray], number: int) -> People:
    """What is promised of the arrays of a picture."""
    if not np.isfinite(arrays["vertices_cam"]).all():
        raise ValueError(f"picture {number}: the prediction is not finite; is the model trained?")
    about = {"image": "", "method": model.method, "checkpoint": model.checkpoint}
    whole = arrays | {key: np.array(value) for key, value in about.items()}
    promised = {f.name: arrays[f.name] for f in fields(People) if f.name in arrays}
    promised["joint_names"] = tuple(arrays["joint_names"].tolist())
    return People(**promised | {"body": model.body, "_arrays": whole})


def _read(image: Picture) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB, upright.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no picture.
    """
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such picture; check the path")
        return inputs.read_image(path)
    if isinstance(image, Image.Image):
        return inputs.to_rgb(ImageOps.exif_transpose(image))
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            f"a picture is (H, W, 3) uint8 RGB, this is {array.shape} {array.dtype}; of floats in "
            "[0, 1] take (255 * image).round().astype('uint8')"
        )
    return array
