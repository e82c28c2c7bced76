"""The software: packages with their bounds, optional extras, and codecs."""

import importlib.metadata
import io
from collections.abc import Callable, Iterator

import numpy as np
from packaging.requirements import Requirement

from hmrkit.diagnosis.line import Line

# extra -> what it is for; those for people who change hmrkit are not looked at
EXTRAS = {
    "sweep": "sweeps with joblib, SLURM or Optuna",
    "remote": "shards at s3:// addresses",
    "datasets": "MPI-INF-3DHP's test labels",
    "onnx": "hmrkit.export to .onnx, detector=onnx",
    "tracking": "tracker=bytetrack",
    "heic": "pictures of iPhones",
    "app": "hmrkit.app, the page in a browser",
}


def check_packages() -> Iterator[Line]:
    """Whether what hmrkit needs is there, in versions that it was written for."""
    try:
        required = importlib.metadata.requires("hmrkit") or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "in the clone: pip install -e .   elsewhere: pip install <folder of the clone>"
        yield Line("software", "packages", "fail", "hmrkit itself is not installed", remedy)
        return
    requirements = [Requirement(text) for text in required]
    core = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = [text for text in map(_problem, core) if text]
    if wrong:
        remedy = 'pip install --upgrade "hmrkit"; in a clone pip install -e .'
        yield Line("software", "packages", "fail", "; ".join(wrong), remedy)
    else:
        yield Line("software", "packages", "ok", f"all {len(core)} that hmrkit needs")
    yield from _opencv()
    for extra, purpose in EXTRAS.items():
        own = [requirement for requirement in requirements if _is_for(requirement, extra)]
        missing = [text for text in map(_problem, own) if text]
        if missing:
            found = f"{'; '.join(missing)}: for {purpose}"
            yield Line("software", f"[{extra}]", "warn", found, f'pip install "hmrkit[{extra}]"')
        elif own:
            yield Line("software", f"[{extra}]", "ok", purpose)


def _is_for(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    if marker is None:
        return False
    return marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _problem(requirement: Requirement) -> str:
    """What is wrong with an installed package, or nothing."""
    name, wanted = requirement.name, requirement.specifier
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is missing"
    return "" if wanted.contains(version, prereleases=True) else f"{name} {version}, not {wanted}"


def _opencv() -> Iterator[Line]:
    """Several distributions of OpenCV write the same folder; the last one wins."""
    names = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    found = sorted(name for name in names if name and name.startswith("opencv-"))
    if len(found) > 1:
        others = " ".join(name for name in found if name != "opencv-python-headless")
        remedy = (
            f"pip uninstall {others}, then pip install --force-reinstall opencv-python-headless"
        )
        yield Line(
            "software", "OpenCV", "warn", f"{' and '.join(found)} overwrite each other", remedy
        )


def check_codecs() -> Iterator[Line]:
    """Whether pictures and videos can be read and written, by doing it."""
    yield _codec(
        "JPEG", _jpeg, "training reads nothing else", "pip install --force-reinstall simplejpeg"
    )
    yield _codec(
        "H.264", _h264, "videos that play in a browser", "pip install --force-reinstall av"
    )


def _codec(name: str, attempt: Callable[[], str], purpose: str, remedy: str) -> Line:
    try:
        return Line("software", name, "ok", f"{attempt()}: {purpose}")
    except Exception as error:  # libraries of several makers
        found = f"{type(error).__name__}: {error} ({purpose})"
        return Line("software", name, "fail", found, remedy)


def _gradient() -> np.ndarray:
    """A smooth picture (64, 64, 3) uint8 that every codec keeps."""
    across, down = np.meshgrid(np.arange(64), np.arange(64))
    return np.stack([4 * across, 4 * down, across + down], axis=2).astype(np.uint8)


def _jpeg() -> str:
    import simplejpeg

    decoded = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(_gradient()))
    assert decoded.shape == (64, 64, 3)
    return "simplejpeg"


def _h264() -> str:
    """Write eight frames and read them again, in memory."""
    import av

    file, picture = io.BytesIO(), _gradient()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(8):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file) as back:
        frames = [frame.to_ndarray(format="rgb24") for frame in back.decode(video=0)]
    assert len(frames) == 8, f"{len(frames)} of 8 frames came back"
    return f"PyAV {av.__version__}, written and read"
