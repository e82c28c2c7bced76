"""One record: a ``Sample`` as named byte strings, and back, checked in both directions.

A record is ``<key>.0.jpg``, ``<key>.1.jpg``, ... (its images in order, JPEG or PNG) followed by
``<key>.labels.safetensors`` (its arrays; ``key``, ``source`` and ``joint_set`` in the metadata).
docs/shards.md describes every field.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
import simplejpeg

from hmrkit.body import joints
from hmrkit.types import Sample

SCHEMA_VERSION = 2
LABELS = "labels.safetensors"
IMAGE_FORMATS = ("jpg", "png")
KEY_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,72}")  # a dot would split the key, a slash the file

# dtype and shape of every array: I images, O views, P persons, K joints of the record's joint set.
FIELDS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "intrinsics": ("float32", ("I", 3, 3)),
    "world_to_camera": ("float32", ("I", 4, 4)),
    "intrinsics_of_view": ("float32", ("O", 3, 3)),
    "image_of_view": ("int64", ("O",)),
    "person_of_view": ("int64", ("O",)),
    "box_img": ("float32", ("O", 4)),
    "keypoints_img": ("float32", ("O", "K", 3)),
    "visible_fraction": ("float32", ("O",)),
    "person_id": ("int64", ("P",)),
    "keypoints_world": ("float32", ("P", "K", 4)),
    "pose": ("float32", ("P", 24, 3)),
    "betas": ("float32", ("P", 10)),
    "transl": ("float32", ("P", 3)),
    "has_pose": ("bool", ("P",)),
    "has_betas": ("bool", ("P",)),
    "gender": ("int64", ("P",)),
    "is_self_intersecting": ("bool", ("P",)),
    "time_s": ("float32", ("P",)),
}
_DTYPES = {"F32": np.float32, "I64": np.int64, "BOOL": np.bool_}
_STRINGS = ("key", "source", "joint_set")


class BadImage(ValueError):
    """The content of an image file cannot be decoded."""


class Unusable(ValueError):
    """What a cut raises for a record whose content it cannot use, such as a box off its image.

    In a loader it makes the record a bad one of kind "cut"; any other error of a cut stops the run.
    """


class BadRecord(Exception):
    """A record that cannot be used: it is skipped, counted by (source, shard, kind) and reported.

    Attributes:
        shard: path or address of the tar.
        key: the record's key, or what is known of it.
        reason: what is wrong, for people.
        kind: one of ``KINDS``, for the counters.
        number: how many records are lost (the rest of a shard counts as one event).
    """

    KINDS = ("file", "truncated", "checksum", "image", "labels", "missing", "cut")

    def __init__(
        self, shard: str, key: str, reason: str, kind: str = "labels", number: int = 1
    ) -> None:
        super().__init__(shard, key, reason, kind, number)  # all of them: it must survive pickling
        assert kind in self.KINDS, kind
        self.shard, self.key, self.reason, self.kind = shard, key, reason, kind
        self.number = number

    def __str__(self) -> str:
        return f"{self.shard}: record {self.key!r}: {self.reason}"


def complete_sample(sample: Sample, joint_set: str, source: str = "") -> Sample:
    """Fill the fields that a sample leaves out with "absent" (NaN, confidence or flag 0).

    Args:
        sample: at least ``key``; ``images`` unless it is motion; with images ``image_of_view``,
            ``person_of_view`` and ``box_img``. Arrays have the shapes of ``FIELDS``.
        joint_set: joint set of both keypoint arrays.
        source: stored when the sample names no source of its own.

    Returns:
        A new sample with every field of a record.
    """
    sizes = _sizes(sample, joint_set)
    filler = {"float32": np.nan, "int64": 0, "bool": False}
    full: dict[str, Any] = {"source": source, "images": [], **sample, "joint_set": joint_set}
    for name, (dtype, letters) in FIELDS.items():
        if name not in full:
            full[name] = np.full(_shape(letters, sizes), filler[dtype], dtype)
    for name in ("keypoints_img", "keypoints_world"):
        if name not in sample:
            full[name][..., -1] = 0.0
    if "world_to_camera" not in sample:
        full["world_to_camera"][:] = np.eye(4)
    if "person_id" not in sample:
        full["person_id"][:] = np.arange(sizes["P"])
    if "gender" not in sample:
        full["gender"][:] = -1
    return full  # type: ignore[return-value]


def check_sample(sample: Sample) -> None:
    """Check a complete sample against the schema.

    Raises:
        ValueError: naming the key, the field and what is wrong with it.
    """
    key = sample.get("key", "?")
    known = {*FIELDS, *_STRINGS, "images"}
    unknown, absent = sorted(set(sample) - known), sorted(known - set(sample))
    if unknown or absent:
        problem = f"unknown fields {unknown}" if unknown else f"missing fields {absent}"
        raise ValueError(f"record {key!r}: {problem}; schema {SCHEMA_VERSION} has {sorted(known)}")
    sizes = _sizes(sample, sample["joint_set"])
    shapes = _all_shapes(tuple(sizes.items()))
    for name, (dtype, letters) in FIELDS.items():
        array, shape = sample[name], shapes[name]
        if array.dtype != dtype or array.shape != shape:
            wanted = "(" + ", ".join(map(str, letters)) + ("," if len(letters) == 1 else "") + ")"
            raise ValueError(
                f"record {key!r}: {name} is {array.dtype} {array.shape}, expected {dtype} {wanted}"
                f" = {shape}"
            )
    _check_values(sample, key, sizes)


def _check_values(sample: Sample, key: str, sizes: dict[str, int]) -> None:
    def refuse(name: str, problem: str) -> None:
        raise ValueError(f"record {key!r}: {name} {problem}")

    for name, limit in (("image_of_view", "I"), ("person_of_view", "P")):
        index = sample[name]
        if index.size and (index.min() < 0 or index.max() >= sizes[limit]):
            refuse(name, f"has values outside 0..{sizes[limit] - 1}")
    box = sample["box_img"]
    if not (box[:, 2:] > box[:, :2]).all() or not np.isfinite(box).all():
        refuse("box_img", "must be finite with x2 > x1 and y2 > y1")
    if not np.isfinite(sample["world_to_camera"]).all():
        refuse("world_to_camera", "must be finite (the identity for a single image)")
    for name in ("keypoints_img", "keypoints_world"):
        points = sample[name]
        confidence = points[..., -1]
        if not (confidence >= 0).all():
            refuse(name, "has a negative or NaN confidence (absent is 0)")
        if not np.isfinite(points[confidence > 0]).all():
            refuse(name, "has confidence > 0 on coordinates that are not finite")
    for flag, name in (("has_pose", "pose"), ("has_betas", "betas")):
        if not np.isfinite(sample[name][sample[flag]]).all():
            refuse(name, f"is not finite where {flag} is set")


def _sizes(sample: Sample, joint_set: str) -> dict[str, int]:
    person_of_view = sample.get("person_of_view", np.zeros(0, np.int64))
    num_people = next(
        (len(sample[name]) for name, (_, s) in FIELDS.items() if s[0] == "P" and name in sample),
        int(person_of_view.max()) + 1 if person_of_view.size else 0,
    )
    num_joints = len(joints.names(joint_set))  # raises for an unknown joint set
    images = len(sample.get("images", []))
    return {"I": images, "O": len(person_of_view), "P": num_people, "K": num_joints}


def _shape(letters: tuple[str | int, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[x] if isinstance(x, str) else x for x in letters)


@lru_cache(maxsize=1024)
def _all_shapes(sizes: tuple[tuple[str, int], ...]) -> dict[str, tuple[int, ...]]:
    return {name: _shape(letters, dict(sizes)) for name, (_, letters) in FIELDS.items()}


def labels_present(sample: Sample) -> dict[str, int]:
    """Count what a complete sample really carries: ``{label: number of views or people}``."""
    counts = {
        "intrinsics": np.isfinite(sample["intrinsics"]).all((1, 2)).sum(),
        "intrinsics_of_view": np.isfinite(sample["intrinsics_of_view"]).all((1, 2)).sum(),
        "visible_fraction": np.isfinite(sample["visible_fraction"]).sum(),
        "keypoints_img": (sample["keypoints_img"][..., -1] > 0).any(1).sum(),
        "keypoints_world": (sample["keypoints_world"][..., -1] > 0).any(1).sum(),
        "pose": sample["has_pose"].sum(),
        "betas": sample["has_betas"].sum(),
        "transl": np.isfinite(sample["transl"]).all(1).sum(),
        "gender": (sample["gender"] >= 0).sum(),
        "time_s": np.isfinite(sample["time_s"]).sum(),
    }
    return {name: int(count) for name, count in counts.items()}


def encode_record(sample: Sample, image_format: str, quality: int) -> dict[str, bytes]:
    """Turn a complete sample into the files of its record, ``{extension: content}``.

    Args:
        sample: checked here. An image is an array (H, W, 3) uint8 RGB, or the bytes of a JPEG or
            PNG file, which are kept as they are once they have been decoded for proof.
        image_format: ``jpg`` (4:2:0) or ``png`` for the arrays.
        quality: JPEG quality.
    """
    check_sample(sample)
    key = sample["key"]
    if not KEY_PATTERN.fullmatch(key):
        raise ValueError(f"record {key!r}: a key is 1 to 72 characters of A-Z a-z 0-9 _ -")
    members = {}
    for i, image in enumerate(sample["images"]):
        if isinstance(image, bytes):
            decode_image(image)
            extension = "png" if image.startswith(b"\x89PNG") else "jpg"
            members[f"{i}.{extension}"] = image
        elif image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"record {key!r}: image {i} is {image.dtype} {image.shape}, not uint8 (H, W, 3)"
            )
        else:
            members[f"{i}.{image_format}"] = encode_image(image, image_format, quality)
    arrays = {name: np.ascontiguousarray(sample[name]) for name in FIELDS}
    strings = {name: str(sample[name]) for name in _STRINGS}
    members[LABELS] = save_arrays(arrays, {**strings, "schema": str(SCHEMA_VERSION)})
    return members


def save_arrays(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """Return a safetensors file whose bytes depend on its content only.

    The library writes the metadata in a random order.
    """
    data = safetensors.numpy.save(arrays, metadata)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]


def decode_record(
    members: dict[str, bytes],
    read_images: Callable[[list[bytes], str], Sequence[np.ndarray]] | None = None,
) -> Sample:
    """Turn the files of one record into a checked sample.

    Args:
        members: ``{extension: content}``.
        read_images: what makes the images of their files and the key; None decodes them.

    Raises:
        BadRecord: with an empty shard; the reader fills it in.
    """
    if LABELS not in members:
        raise BadRecord("", "?", f"no {LABELS}, only {sorted(members)}", "missing")
    try:
        sample = decode_labels(members[LABELS])
    except (ValueError, KeyError, TypeError) as error:
        raise BadRecord("", "?", f"labels cannot be read: {error}", "labels") from error
    names = {name.split(".")[0]: name for name in members if name != LABELS}
    num_images = len(sample["world_to_camera"])
    if sorted(names) != sorted(map(str, range(num_images))):
        reason = f"labels are for {num_images} images, the record has {sorted(names.values())}"
        raise BadRecord("", sample["key"], reason, "missing")
    files = [members[names[str(i)]] for i in range(num_images)]
    sample["images"] = (read_images or decode_images)(files, sample["key"])  # type: ignore[typeddict-item]
    try:
        check_sample(sample)
    except ValueError as error:
        raise BadRecord("", sample["key"], str(error), "labels") from error
    return sample


def decode_images(files: list[bytes], key: str) -> list[np.ndarray]:
    """Decompress all images of a record.

    Raises:
        BadRecord: with an empty shard, if one cannot be.
    """
    try:
        return [decode_image(file) for file in files]
    except ValueError as error:
        raise BadRecord("", key, f"image cannot be decoded: {error}", "image") from error


def decode_labels(data: bytes) -> Sample:
    """Read safetensors without copying (the library drops the metadata when it reads bytes)."""
    start = 8 + int.from_bytes(data[:8], "little")
    if len(data) < start:
        raise ValueError("file ends inside its header")
    header = json.loads(data[8:start])
    strings = header.pop("__metadata__")
    if strings["schema"] != str(SCHEMA_VERSION):
        raise ValueError(f"schema {strings['schema']}, this hmrkit reads {SCHEMA_VERSION}")
    sample: dict[str, Any] = {name: strings[name] for name in _STRINGS}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        content = np.frombuffer(data, np.uint8, end - begin, start + begin)
        sample[name] = content.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return sample  # type: ignore[return-value]


def encode_image(image: np.ndarray, image_format: str, quality: int) -> bytes:
    """Compress an (H, W, 3) uint8 RGB image."""
    image = np.ascontiguousarray(image)
    if image_format == "jpg":
        return simplejpeg.encode_jpeg(image, quality=quality, colorsubsampling="420")
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def decode_image(data: bytes) -> np.ndarray:
    """Decompress a JPEG or PNG file to (H, W, 3) uint8 RGB.

    Raises:
        BadImage: if the content is neither, or damaged.
    """
    if data.startswith(b"\xff\xd8"):
        try:
            return simplejpeg.decode_jpeg(data)  # strict: a damaged file raises
        except ValueError as error:
            raise BadImage(str(error)) from error
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise BadImage(f"{len(data)} bytes that are no JPEG or PNG (starts {data[:8]!r})")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
