"""A method of crops as one graph that runs without hmrkit: ONNX, or a program of ``torch.export``.

    crop (B, 3, H, W) uint8 RGB -> [normalise -> network -> body model] -> rotations, shape, camera,
    mesh, joints

What is cut from a picture beforehand, and what test-time optimisation does, is not in the graph. B
is free. A network that looks at more than the crop (CLIFF) has more inputs, ``INPUTS``.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hmrkit.body import joints
from hmrkit.body.smpl import SMPL
from hmrkit.data.collate import normalize_image

SUFFIXES = (".onnx", ".pt2")


class Field(NamedTuple):
    """An input or output: its shape after the batch, its type and what it means."""

    shape: tuple[int | str, ...]
    dtype: str
    meaning: str


# What networks may read of a batch beside the crop. Index vectors are made inside the graph.
INPUTS = {
    "crop_to_img": Field((2, 3), "float32", "affine map, crop units [-1, 1] to px of the picture"),
    "full_size": Field((2,), "int64", "height and width of the picture, px"),
    "intrinsics_of_view": Field((3, 3), "float32", "its camera, px; NaN where unknown"),
}
_INDEX = ("image_of_view", "person_of_view")
OUTPUTS = {
    "rotmat": Field(
        (24, 3, 3), "float32", "SMPL's rotations; the first takes the body to camera axes"
    ),
    "betas": Field((10,), "float32", "SMPL's shape"),
    "transl_cam": Field((3,), "float32", "m, where the body stands before its camera"),
    "intrinsics_crop": Field((3, 3), "float32", "that camera, m to crop units [-1, 1]"),
    "vertices": Field(("V", 3), "float32", "m, camera axes; add transl_cam"),
    "joints": Field(("K", 3), "float32", "m, camera axes, by joint_names; add transl_cam"),
}
_OF_MESH = ("vertices", "joints")


class CropGraph(nn.Module):
    """Inputs as tensors to outputs by name.

    Args:
        net: a network of crops, in eval mode.
        body_model: poses its bodies; part of the graph if there is a mesh, or if the net needs one.
        extra_inputs: keys of ``INPUTS`` that the network reads.
        joint_set: of ``joints``; None leaves mesh and joints out.
    """

    def __init__(
        self,
        net: nn.Module,
        body_model: SMPL,
        extra_inputs: Sequence[str] = (),
        joint_set: str | None = "smpl24",
    ) -> None:
        super().__init__()
        self.net, self.body_model = net, body_model
        self.extra_inputs, self.joint_set = tuple(extra_inputs), joint_set

    def forward(self, image: Tensor, *extra: Tensor) -> dict[str, Tensor]:
        """Crops (B, 3, H, W) uint8 RGB, and ``extra_inputs`` in their order, to ``OUTPUTS``."""
        view = torch.arange(image.shape[0], device=image.device)
        batch = dict.fromkeys(_INDEX, view) | dict(zip(self.extra_inputs, extra, strict=True))
        prediction = self.net({**batch, "image": normalize_image(image)}, self.body_model)
        body = prediction.body
        outputs = {
            "rotmat": torch.cat([body.global_orient[:, None], body.body_pose], dim=1),
            "betas": body.betas,
            "transl_cam": prediction.transl_cam,
            "intrinsics_crop": prediction.intrinsics_crop.clone(),
        }
        if self.joint_set is not None:
            mesh = self.body_model(body)
            outputs["vertices"] = mesh.vertices
            outputs["joints"] = self.body_model.joints_from_mesh(mesh, self.joint_set)
        return outputs


class _Recorder(dict):
    """A batch that notes which of its keys are read."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


def make_graph(module: Any, joint_set: str | None = "smpl24") -> CropGraph:
    """The graph of a module, with the inputs that its network turns out to read.

    Args:
        module: an ``HMRModule`` in eval mode, on the CPU.
        joint_set: of the joints; None leaves mesh and joints out.

    Raises:
        ValueError: if the network reads what no graph can be given.
    """
    if joint_set is not None:
        joints.names(joint_set)
    net = getattr(module.net, "main", module.net)  # what predicts, where another one trains it
    size = getattr(net, "input_size", None)
    known = [*INPUTS, *_INDEX]
    if size is None:
        raise ValueError(f"{type(net).__name__} does not look at crops, which is what is exported")
    example = _Recorder(example_inputs(size, list(INPUTS), 2))
    example |= dict.fromkeys(_INDEX, torch.arange(2))
    example["image"] = normalize_image(example["image"])
    try:
        with torch.no_grad():
            net(example, module.body)
    except KeyError as error:
        raise ValueError(
            f"{type(net).__name__} reads {error} of its batch; what is exported may read the crop, "
            f"{', '.join(known)}"
        ) from error
    extra = [name for name in INPUTS if name in example.read]
    return CropGraph(net.eval(), module.body, extra, joint_set).eval()


def example_inputs(
    size_hw: tuple[int, int], extra_inputs: Sequence[str], num: int, seed: int = 0
) -> dict[str, Tensor]:
    """Inputs to try a graph with: noise, cut from somewhere in pictures of 1080 x 1920.

    Every other camera is unknown.

    Args:
        size_hw: of the crop.
        extra_inputs: names.
        num: B.
        seed: of the noise.
    """
    draw = np.random.default_rng([seed, num])
    side, middle = draw.uniform(100, 500, num), draw.uniform(200, 900, (num, 2))
    crop_to_img = np.zeros((num, 2, 3))
    crop_to_img[:, 0, 0] = crop_to_img[:, 1, 1] = side
    crop_to_img[:, :, 2] = middle
    intrinsics = np.tile([[1500.0, 0, 959.5], [0, 1500.0, 539.5], [0, 0, 1]], (num, 1, 1))
    intrinsics[::2] = np.nan
    values = {
        "crop_to_img": crop_to_img.astype(np.float32),
        "full_size": np.tile([1080, 1920], (num, 1)),
        "intrinsics_of_view": intrinsics.astype(np.float32),
    }
    image = draw.integers(0, 256, (num, 3, *size_hw), dtype=np.uint8)
    return {"image": torch.from_numpy(image)} | {
        name: torch.from_numpy(values[name]) for name in extra_inputs
    }


@torch.no_grad()
def trace_graph(graph: CropGraph) -> torch.export.ExportedProgram:
    """The operations of a graph, for any batch size.

    Args:
        graph: of ``make_graph``.
    """
    example = example_inputs(graph.net.input_size, graph.extra_inputs, 2)
    batch = torch.export.Dim("batch", min=1, max=4096)
    extra = tuple({0: batch} for _ in graph.extra_inputs)
    shapes = ({0: batch}, extra) if extra else ({0: batch},)
    # A strict trace sees len(tensor) as a symbol; the other kind would fix the batch size.
    return torch.export.export(graph, tuple(example.values()), dynamic_shapes=shapes, strict=True)


def check_output(path: Path) -> None:
    """Whether a graph can be written there.

    Raises:
        ValueError: for an unknown ending, or if the packages for ONNX are missing.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output={path}: end it in {' or '.join(SUFFIXES)}")
    if path.suffix == ".pt2":
        return
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(package)
        except ImportError as error:
            raise ValueError(
                f'writing ONNX needs {package} ({error}): pip install "hmrkit[onnx]", or give '
                "output=<name>.pt2 for torch.export; python -m hmrkit.doctor shows what is there"
            ) from error


@torch.no_grad()
def write_graph(
    graph: CropGraph, program: torch.export.ExportedProgram, path: Path, opset: int = 18
) -> None:
    """Write a traced graph.

    Args:
        graph: of ``make_graph``.
        program: of ``trace_graph``.
        path: see ``check_output``. ONNX beyond 2 GB has its weights in a file beside it.
        opset: version of ONNX's operators.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return
    names = [name for name in OUTPUTS if graph.joint_set is not None or name not in _OF_MESH]
    onnx_program = torch.onnx.export(
        program,
        input_names=["image", *graph.extra_inputs],
        output_names=names,
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    onnx_program.save(path)


Runner = Callable[[Mapping[str, Tensor]], dict[str, np.ndarray]]


def open_graph(path: Path, threads: int) -> Runner:
    """A written graph as a function from inputs by name to outputs by name, on the CPU.

    Args:
        path: of ``write_graph``.
        threads: that it may use.
    """
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()

        @torch.no_grad()
        def run(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
            return {name: value.numpy() for name, value in program(*inputs.values()).items()}

        return run
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run_onnx(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        feed = {name: value.numpy() for name, value in inputs.items()}
        return dict(zip(names, session.run(None, feed), strict=True))

    return run_onnx


def eager(graph: CropGraph) -> Runner:
    """The graph as PyTorch computes it, to compare with."""

    @torch.no_grad()
    def run(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in graph(*inputs.values()).items()}

    return run


@dataclass(frozen=True)
class Parity:
    """How far a written graph is from PyTorch, for one output.

    Attributes:
        output: its name.
        difference: the largest absolute difference.
        largest: the largest absolute value, what the difference is to be seen beside.
    """

    output: str
    difference: float
    largest: float

    def is_within(self, tolerance: float) -> bool:
        """Whether it is close: absolute below 1, relative to the largest value above."""
        return self.difference <= tolerance * max(1.0, self.largest)


def compare(graph: CropGraph, run: Runner, batch_sizes: Iterable[int]) -> list[Parity]:
    """The differences of a written graph to PyTorch over batches of several sizes."""
    found: dict[str, tuple[float, float]] = {}
    for num in batch_sizes:
        inputs = example_inputs(graph.net.input_size, graph.extra_inputs, num, seed=1)
        ours, theirs = eager(graph)(inputs), run(inputs)
        for name, value in ours.items():
            assert value.shape == theirs[name].shape, name
            now = (float(np.abs(value - theirs[name]).max()), float(np.abs(value).max()))
            found[name] = tuple(map(max, now, found.get(name, now)))
    return [Parity(name, *values) for name, values in found.items()]


def seconds_per_crop(run: Runner, inputs: Mapping[str, Tensor], repetitions: int) -> float:
    """The median time of a crop in a batch; the first call does not count."""
    run(inputs)
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run(inputs)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) / len(inputs["image"])


def describe(graph: CropGraph, cut: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody without hmrkit must know of a graph, as plain containers for a JSON file.

    Args:
        graph: of ``make_graph``.
        cut: the config of the crop, see ``configs_hydra/data``.
    """
    size = graph.net.input_size
    image = Field((3, *size), "uint8", "RGB crop; it is normalised inside")
    inputs = {"image": image} | {name: INPUTS[name] for name in graph.extra_inputs}
    content = {
        "method": type(graph.net).__name__,
        "body": graph.body_model.name,
        "crop": dict(cut),
        "inputs": {name: field._asdict() for name, field in inputs.items()},
        "frames": "x right, y down, z forward; metres; the centre of the first pixel is (0, 0)",
    }
    is_mesh = graph.joint_set is not None
    kept = {k: field for k, field in OUTPUTS.items() if is_mesh or k not in _OF_MESH}
    content["outputs"] = {name: field._asdict() for name, field in kept.items()}
    if is_mesh:
        content["joint_set"] = graph.joint_set
        content["joint_names"] = list(joints.names(graph.joint_set))
        content["faces"] = graph.body_model.faces.tolist()
    return content
