"""Where pictures and videos come from: files, folders, lists; pictures as upright 8-bit RGB."""

import shutil
import struct
import urllib.request
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".avif",
    ".heic",
    ".heif",
)
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
# What Pillow raises for files that are broken in one way or another.
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error)
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width
_EXIF, _FOCAL_35MM = 0x8769, 0xA405  # the part of the tags with the lens, and the one in it
_DIAGONAL_35MM = 43.27


def find_inputs(
    source: str | Path | Sequence[str | Path], output: Path, *, allow_urls: bool = False
) -> tuple[dict[str, Path], dict[str, Path]]:
    """The pictures and videos a user named, each with a name for its outputs that no other has.

    A name is the path below the folder that was given, without suffix, so that outputs mirror the
    inputs; inputs that would share one (``a.jpg`` and ``a.png``) get their suffix or a number
    added. Names are compared without case, as some file systems do.

    Args:
        source: a file, a folder (searched with its subfolders), or a list of both.
        output: where results will go; what lies there is never an input, but for what is
            downloaded to its folder ``downloads``.
        allow_urls: whether web addresses may be downloaded.

    Returns:
        name -> picture, and name -> video.

    Raises:
        FileNotFoundError: if a path does not exist or holds neither.
        ValueError: for web addresses, if they are not allowed or cannot be had.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    found: dict[Path, str] = {}  # path -> wished name; a file given twice counts once
    for item in sources:
        if "://" in str(item):
            item = _download(str(item), output / "downloads", allow_urls)
        for path, root in _expand(item, output):
            found.setdefault(path, path.relative_to(root).with_suffix("").as_posix())
    if not found:
        raise FileNotFoundError(f"input={source}: the list is empty; name a picture or a folder")
    wished = [name.casefold() for name in found.values()]
    named: dict[str, Path] = {}
    taken: set[str] = set()
    for path, name in found.items():
        if wished.count(name.casefold()) > 1:
            name = f"{name}_{path.suffix[1:]}"
        candidate, number = name, 2
        while candidate.casefold() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.casefold())
        named[candidate] = path
    videos = {name: path for name, path in named.items() if is_video(path)}
    return {name: path for name, path in named.items() if name not in videos}, videos


def is_video(path: Path) -> bool:
    """Whether its name says so."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright picture, from its header alone.

    Raises:
        ValueError: if the file is no picture that Pillow knows.
    """
    _open_heif(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_lying = image.getexif().get(_ORIENTATION, 1) >= 5
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return (width, height) if is_lying else (height, width)


def read_image(path: Path) -> np.ndarray:
    """Decode a picture to (H, W, 3) uint8 RGB.

    The EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bit, and
    of an animation the first frame is taken.

    Raises:
        ValueError: if the file cannot be decoded completely; the message names it.
    """
    _open_heif(path)
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            return to_rgb(image)
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error


def exif_focal_px(path: Path) -> float | None:
    """Focal length in px of the picture, from its 35 mm equivalent in EXIF; None if there is none.

    The equivalent compares diagonals: that of a 36 x 24 mm frame is 43.27 mm (CIPA DCG-001).
    """
    _open_heif(path)
    try:
        with Image.open(path) as image:
            equivalent_mm = image.getexif().get_ifd(_EXIF).get(_FOCAL_35MM)
            diagonal_px = float(np.hypot(*image.size))
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    return float(equivalent_mm) / _DIAGONAL_35MM * diagonal_px if equivalent_mm else None


def _open_heif(path: Path) -> None:
    """Teach Pillow the format of phones, if this is one.

    Raises:
        ValueError: if the library for it is missing.
    """
    if path.suffix.lower() not in (".heic", ".heif"):
        return
    try:
        import pillow_heif
    except ImportError as error:
        raise ValueError(
            f'{path} needs another library: pip install "hmrkit[heic]", or save it as JPEG; '
            "python -m hmrkit.doctor shows what is installed"
        ) from error
    pillow_heif.register_heif_opener()


def _download(url: str, folder: Path, is_allowed: bool) -> Path:
    """Fetch a picture or video once; where it is."""
    if not is_allowed:
        raise ValueError(
            f"input={url} is a web address; download it and give the file, or allow it with "
            "allow_urls=true"
        )
    path = folder / (PurePosixPath(urlsplit(url).path).name or "picture.jpg")
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=30) as answer, partial.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise ValueError(f"input={url} cannot be downloaded: {error}") from error
    return partial.replace(path)


def to_rgb(image: Image.Image) -> np.ndarray:
    """Upright pixels (H, W, 3) uint8 RGB of a Pillow image of any mode; see ``read_image``.

    Raises:
        ValueError: for values that 8 bits cannot hold.
    """
    if image.mode.startswith("I"):  # 16-bit grey; "I" holds it in 32 bits
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("grey values beyond 16 bits; save it with 8 or 16 bits")
        grey = np.round(values / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _expand(item: str | Path, output: Path) -> list[tuple[Path, Path]]:
    """(file, the folder its output name is relative to) for everything one input stands for."""
    path = Path(item).expanduser()
    if path.is_dir():
        files = [
            p
            for p in sorted(path.rglob("*"))
            if p.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES
            and p.is_file()
            and not p.resolve().is_relative_to(output.resolve())
        ]
        if not files:
            raise FileNotFoundError(
                f"input={path}: no picture ({' '.join(IMAGE_SUFFIXES)}) and no video "
                f"({' '.join(VIDEO_SUFFIXES)}) in there"
            )
        return [(p, path) for p in files]
    if not path.is_file():
        raise FileNotFoundError(f"input={path}: no such file or folder; check the path")
    return [(path, path.parent)]
