"""Bodies fitted by others to annotated people, found by the number of the annotation.

Three published formats are told apart by what is in the file:

* CLIFF, npz (``coco2014part_cliffGT.npz``): ``annot_id`` (N,), ``pose`` (N, 72), ``shape`` (N, 10),
  ``global_t`` (N, 3) metres and ``focal_l`` (N,) px of a camera that looks at the image's middle;
* EFT, json (``COCO2014-All-ver01.json``): ``data``, a list of dicts with ``annotId``, ``parm_pose``
  (24, 3, 3) rotation matrices and ``parm_shape`` (10,); its camera is that of a crop: not kept;
* NeuralAnnot, json (``MSCOCO_train_SMPL_NeuralAnnot.json``): ``{annotation number: {"smpl_param":
  {"pose" (72,), "shape" (10,), "trans" (3,)}, "cam_param": {"focal" (2,), "princpt" (2,)}}}``; the
  camera is that of one person alone (``intrinsics_of_view``).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from hmrkit.data.sources.official import read_arrays

_LISTS = ("parm_pose", "parm_shape", "pose", "shape", "trans", "focal", "princpt")
_SHAPES = {"pose": (24, 3), "betas": (10,), "transl": (3,), "focal_px": (2,), "principal_px": (2,)}


class PseudoLabels:
    """Bodies of a file of fits; camera axes, metres, neutral gender.

    Args:
        path: see the top of this file.

    Raises:
        ValueError: if it is none of the three formats.
    """

    def __init__(self, path: Path) -> None:
        self._camera = "intrinsics"
        try:
            if path.suffix == ".npz":
                numbers, fields = _cliff(path)
            else:
                content = json.loads(path.read_bytes(), object_hook=_compact)
                is_eft = "data" in content
                numbers, fields = _eft(content["data"]) if is_eft else _neuralannot(content)
                self._camera = "intrinsics" if is_eft else "intrinsics_of_view"
            num = len(numbers)
            self._fields = {
                name: np.float32(fields[name]).reshape(num, *shape)
                if name in fields
                else np.full((num, *shape), np.nan, np.float32)
                for name, shape in _SHAPES.items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is not what was expected ({error!r}): CLIFF's npz, EFT's json (annotId, "
                "parm_pose, parm_shape) or NeuralAnnot's json (smpl_param, cam_param)"
            ) from error
        self._row = {int(number): row for row, number in enumerate(numbers)}

    def labels(self, number: int | None, size_hw: tuple[int, int]) -> dict[str, Any]:
        """The fields of a record, one person's row of each, absent if there is no fit.

        Args:
            number: of the annotation; None if it has none.
            size_hw: height and width of the image, px; the principal point of CLIFF's camera is
                its middle.
        """
        row = None if number is None else self._row.get(number)
        intrinsics = np.full((3, 3), np.nan, np.float32)
        found: dict[str, Any] = {self._camera: intrinsics}
        for name in ("pose", "betas", "transl"):
            absent = np.full(_SHAPES[name], np.nan, np.float32)
            found[name] = absent if row is None else self._fields[name][row]
        found["has_pose"] = found["has_betas"] = np.bool_(row is not None)
        if row is not None and np.isfinite(self._fields["focal_px"][row]).all():
            middle, principal = np.array(size_hw[::-1]) / 2, self._fields["principal_px"][row]
            intrinsics[:] = np.eye(3)
            intrinsics[[0, 1], [0, 1]] = self._fields["focal_px"][row]
            intrinsics[:2, 2] = np.where(np.isfinite(principal), principal, middle)
        return found


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    """Lists of numbers as arrays; a whole file as lists would take gigabytes."""
    kept = {name: np.array(entry[name], np.float32) for name in _LISTS if name in entry}
    if "parm_pose" in kept:
        return {**kept, "annotId": entry["annotId"]}
    return kept or entry


_Fits = tuple[Any, Mapping[str, Any]]  # numbers of the annotations, fields with as many rows


def _cliff(path: Path) -> _Fits:
    arrays = read_arrays(path, ("annot_id", "pose", "shape", "global_t", "focal_l"))
    return arrays["annot_id"], {
        "pose": arrays["pose"],
        "betas": arrays["shape"],
        "transl": arrays["global_t"],
        "focal_px": np.repeat(arrays["focal_l"].reshape(-1, 1), 2, axis=1),
    }


def _eft(fits: list[dict[str, Any]]) -> _Fits:
    matrices = np.stack([fit["parm_pose"] for fit in fits]).astype(np.float64)
    return [fit["annotId"] for fit in fits], {
        "pose": Rotation.from_matrix(matrices.reshape(-1, 3, 3)).as_rotvec(),
        "betas": np.stack([fit["parm_shape"] for fit in fits]),
    }


def _neuralannot(fits: dict[str, dict[str, Any]]) -> _Fits:
    bodies = [fit["smpl_param"] for fit in fits.values()]
    cameras = [fit["cam_param"] for fit in fits.values()]
    return list(fits), {
        "pose": np.stack([body["pose"] for body in bodies]),
        "betas": np.stack([body["shape"] for body in bodies]),
        "transl": np.stack([body["trans"] for body in bodies]),
        "focal_px": np.stack([camera["focal"] for camera in cameras]),
        "principal_px": np.stack([camera["princpt"] for camera in cameras]),
    }
