"""Where pictures come from: files, folders and lists of them, decoded to upright 8-bit RGB."""

import struct
from collections.abc import Sequence
from pathlib import Path

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
)
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
# What Pillow raises for files that are broken in one way or another.
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error)
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 swap height and width


def find_images(source: str | Path | Sequence[str | Path], output: Path) -> dict[str, Path]:
    """The pictures a user named, each with a name for its outputs that no other picture has.

    A name is the path below the folder that was given, without suffix, so that outputs mirror the
    inputs; pictures that would share one (``a.jpg`` and ``a.png``) get their suffix or a number
    added. Names are compared without case, as some file systems do.

    Args:
        source: a file, a folder (searched with its subfolders), or a list of both.
        output: where results will go; what lies there is never an input.

    Raises:
        FileNotFoundError: if a path does not exist or holds no picture.
        ValueError: for web addresses and videos.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    found: dict[Path, str] = {}  # path -> wished name; a file given twice counts once
    for item in sources:
        for path, root in _expand(item, output):
            found.setdefault(path, path.relative_to(root).with_suffix("").as_posix())
    if not found:
        raise FileNotFoundError(f"input={source}: the list is empty; name a picture or a folder")
    wished = [name.casefold() for name in found.values()]
    images: dict[str, Path] = {}
    taken: set[str] = set()
    for path, name in found.items():
        if wished.count(name.casefold()) > 1:
            name = f"{name}_{path.suffix[1:]}"
        candidate, number = name, 2
        while candidate.casefold() in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate.casefold())
        images[candidate] = path
    return images


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright picture, from its header alone.

    Raises:
        ValueError: if the file is no picture that Pillow knows.
    """
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
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            return _to_rgb(image)
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be decoded: {error}") from error


def _to_rgb(image: Image.Image) -> np.ndarray:
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
    """(picture, the folder its output name is relative to) for everything one input stands for."""
    if "://" in str(item):
        raise ValueError(f"input={item} is a web address; download it and give the file")
    path = Path(item).expanduser()
    if path.is_dir():
        pictures = [
            p
            for p in sorted(path.rglob("*"))
            if p.suffix.lower() in IMAGE_SUFFIXES
            and p.is_file()
            and not p.resolve().is_relative_to(output.resolve())
        ]
        if not pictures:
            raise FileNotFoundError(
                f"input={path}: no picture ({' '.join(IMAGE_SUFFIXES)}) in there"
            )
        return [(p, path) for p in pictures]
    if not path.is_file():
        raise FileNotFoundError(f"input={path}: no such file or folder; check the path")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise ValueError(
            f"input={path} is a video, the demo reads pictures; make some, for example with "
            f"ffmpeg -i {path.name} frames/%05d.jpg, and give that folder"
        )
    return [(path, path.parent)]
