"""Where people are, for methods that look at crops: one interface, any detector.

A detector is called with pictures and gives boxes and scores. It is chosen by the configuration
group ``detector``; a class of one's own with this call is as good (``detector._target_=...``).
Nothing is downloaded unless it is asked for.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detections:
    """People in one picture.

    Attributes:
        boxes_img: (N, 4) x1 y1 x2 y2 px.
        scores: (N,) in [0, 1]; NaN for boxes that were given.
        ids: (N,) who is who through a video, if that is known.
        keypoints: joint set and (N, K, 3) px + confidence, if there are any.
    """

    boxes_img: NDArray[np.float32]
    scores: NDArray[np.float32]
    ids: NDArray[np.int64] | None = None
    keypoints: tuple[str, NDArray[np.float32]] | None = None

    def largest(self, max_people: int | None, min_height_px: float = 0.0) -> "Detections":
        """Without those who are smaller, and of the others the largest ones, in their order."""
        size = self.boxes_img[:, 2:] - self.boxes_img[:, :2]
        kept = np.flatnonzero(size[:, 1] >= min_height_px)
        if max_people is not None and len(kept) > max_people:
            kept = np.sort(kept[np.argsort(-size[kept].prod(axis=1), kind="stable")[:max_people]])
        keypoints = self.keypoints and (self.keypoints[0], self.keypoints[1][kept])
        ids = None if self.ids is None else self.ids[kept]
        return Detections(self.boxes_img[kept], self.scores[kept], ids, keypoints)


class Detector(Protocol):
    """Finds people."""

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """People in pictures (H, W, 3) uint8 RGB, the surest first."""
        ...


class TorchvisionDetector:
    """A detector of torchvision (BSD), trained on COCO.

    Args:
        name: of a function of ``torchvision.models.detection``.
        weights: state dict on disk; None looks where torch.hub keeps its downloads.
        download: whether it may be fetched if it is not there.
        min_score: of a person.
        device: auto, cpu, cuda, mps.

    Raises:
        ValueError: if torchvision or the model is unknown, or the weights are not there; says which
            file is missing, where it comes from and where to put it.
    """

    def __init__(
        self,
        name: str = "fasterrcnn_mobilenet_v3_large_320_fpn",
        weights: str | None = None,
        download: bool = False,
        min_score: float = 0.5,
        device: str = "auto",
    ) -> None:
        import torch

        from hmrkit.infer.loading import best_device

        detection, enum = _torchvision(name)
        path = Path(weights).expanduser() if weights else _hub_path(enum)
        if not path.is_file() and not (download and weights is None):
            raise ValueError(
                f"detector: no weights at {path}; download {enum.url} and put it there or give "
                "detector.weights=<file>, or allow it with detector.download=true; boxes=<file> "
                "and detector=sathmr need no such file"
            )
        state = (
            torch.load(path, map_location="cpu", weights_only=True)
            if path.is_file()
            else enum.get_state_dict(progress=False, check_hash=True)
        )
        classes = len(enum.meta["categories"])
        net = getattr(detection, name)(
            weights=None, weights_backbone=None, num_classes=classes, box_score_thresh=min_score
        )
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"detector.weights={path} is not for {name}: {error}") from error
        self._device = best_device() if device == "auto" else device
        self._net, self._min_score = net.eval().to(self._device), min_score
        self._person = enum.meta["categories"].index("person")

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """People in pictures (H, W, 3) uint8 RGB, the surest first."""
        import torch

        tensors = [torch.from_numpy(i).permute(2, 0, 1).to(self._device) / 255 for i in images]
        with torch.no_grad():
            outputs = self._net(tensors)
        found = []
        for output in outputs:
            kept = (output["labels"] == self._person) & (output["scores"] >= self._min_score)
            boxes, scores = output["boxes"][kept].cpu() - 0.5, output["scores"][kept].cpu()
            found.append(Detections(boxes.numpy(), scores.numpy()))
        return found


class OnnxDetector:
    """A detector as an ONNX file with ``dets`` (1, N, 5) and ``labels`` (1, N), on onnxruntime.

    This is what MMDeploy writes for RTMDet, YOLOX and other detectors of MMDetection (Apache-2.0):
    boxes in px of the input with their scores, without double boxes.

    Args:
        path: the file.
        person: label of people.
        min_score: of a person.
        mean: of the pixels, RGB, 0 to 255.
        std: of the pixels.
        is_bgr: whether the network wants blue first.
        size: height and width of the input if the file leaves them open.

    Raises:
        ValueError: if there is no such file, or onnxruntime is missing.
    """

    def __init__(
        self,
        path: str,
        person: int = 0,
        min_score: float = 0.5,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        is_bgr: bool = False,
        size: Sequence[int] = (640, 640),
    ) -> None:
        if not path or not Path(path).expanduser().is_file():
            raise ValueError(f"detector.path={path}: no such file; give an ONNX detector")
        try:
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                'detector=onnx needs onnxruntime: pip install "hmrkit[onnx]"; '
                "python -m hmrkit.doctor shows what is installed"
            ) from error
        self._session: Any = onnxruntime.InferenceSession(
            str(Path(path).expanduser()), providers=onnxruntime.get_available_providers()
        )
        entry = self._session.get_inputs()[0]
        fixed = [side for side in entry.shape[2:] if isinstance(side, int)]
        self._input, self._size = entry.name, tuple(fixed if len(fixed) == 2 else size)
        self._person, self._min_score = person, min_score
        self._mean, self._std = np.float32(mean), np.float32(std)
        self._is_bgr = is_bgr

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """People in pictures (H, W, 3) uint8 RGB, the surest first."""
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Detections:
        height, width = self._size
        scale = min(height / image.shape[0], width / image.shape[1])
        small = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        canvas = np.full((height, width, 3), 114, np.uint8)
        canvas[: small[1], : small[0]] = cv2.resize(image, small)
        pixels = (canvas.astype(np.float32) - self._mean) / self._std
        pixels = pixels[..., ::-1] if self._is_bgr else pixels
        feed = {self._input: np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}
        dets, labels = self._session.run(["dets", "labels"], feed)
        kept = (labels[0] == self._person) & (dets[0, :, 4] >= self._min_score)
        rows = dets[0][kept]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        # pixel centres are integers here, and half integers for the network
        boxes = (rows[:, :4] / scale) - 0.5
        return Detections(boxes.astype(np.float32), rows[:, 4].astype(np.float32))


class SceneDetector:
    """A checkpoint of a method that finds people itself, SAT-HMR's for example.

    Args:
        checkpoint: of ``hmrkit.train`` or ``hmrkit.convert``.
        min_score: of a person.
        device: auto, cpu, cuda, mps.
        trusted: packages, beside hmrkit and torch, whose classes the checkpoint may name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its method looks at crops.
    """

    def __init__(
        self,
        checkpoint: str,
        min_score: float = 0.5,
        device: str = "auto",
        trusted: Sequence[str] = (),
    ) -> None:
        from hmrkit.infer.loading import load_for_pictures

        if not checkpoint:
            raise ValueError("detector.checkpoint is missing: give that of a method as sathmr")
        self._module, self._cut = load_for_pictures(Path(checkpoint), device, trusted)
        if self._cut.unit == "view":
            raise ValueError(
                f"detector.checkpoint={checkpoint} looks at crops: give that of a method which "
                "finds people itself, as sathmr does"
            )
        self._min_score = min_score

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """People in pictures (H, W, 3) uint8 RGB, the surest first."""
        from hmrkit.infer.scenes import boxes_around, predict_scenes, scene_rows

        prediction, batch, _ = predict_scenes(self._module, self._cut, images)
        rows = scene_rows(self._module, prediction, batch, self._min_score)
        vertices = (rows["vertices"] + rows["transl_cam"][:, None]).numpy()
        boxes = boxes_around(vertices, rows["intrinsics_img"].numpy())
        image = rows["image"].numpy()
        scores = rows["score"].numpy()
        found = []
        for number, picture in enumerate(images):
            height, width = picture.shape[:2]
            limit = np.float32([width, height, width, height]) - 0.5
            inside = np.clip(boxes[image == number], -0.5, limit)
            is_seen = (inside[:, 2:] - inside[:, :2]).min(axis=1) > 1  # not beside the picture
            found.append(Detections(inside[is_seen], scores[image == number][is_seen]))
        return found


def _torchvision(name: str) -> tuple[Any, Any]:
    """Its detection models, and the default weights of one."""
    try:
        from torchvision.models import detection, get_model_weights
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f"detector=torchvision: torchvision cannot be used here ({error}); install the one "
            "that goes with torch; python -m hmrkit.doctor says how"
        ) from error
    if not hasattr(detection, name):
        raise ValueError(f"detector.name={name}: torchvision has no such detector")
    return detection, get_model_weights(name).DEFAULT


def torchvision_weights(name: str) -> tuple[Path, str]:
    """Where the weights of a detector of torchvision should be, and the address they come from.

    Raises:
        ValueError: if there is no such detector, or no torchvision.
    """
    _, enum = _torchvision(name)
    return _hub_path(enum), enum.url


def _hub_path(enum: Any) -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / enum.url.rsplit("/", 1)[-1]
