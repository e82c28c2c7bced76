"""The machine: Python, PyTorch, its accelerator, OpenGL, memory and disk."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hmrkit.data.machine import num_cores
from hmrkit.diagnosis.line import Line, size_text

_OLDEST, _NEWEST = (3, 10), (3, 13)  # Python, of what is tested
_ENOUGH_DISK = 2e9  # bytes; the quick start leaves 0.4 GB behind
_ENOUGH_MEMORY = 3e9
_ENOUGH_SHARED = 1e9  # batches travel through /dev/shm; a container's default is 64 MB
_GL_SECONDS = 60  # an OpenGL that hangs must not hang the page
_CHANNEL = "both from one channel of pytorch.org/get-started, such as pip install torch torchvision"


def check_python() -> Iterator[Line]:
    """Its version and where it is."""
    version = sys.version_info[:2]
    text = f"{platform.python_version()} ({sys.executable}), {platform.platform()}"
    if version < _OLDEST:
        remedy = "make the virtual environment with Python 3.10 to 3.13"
        yield Line("machine", "Python", "fail", text, remedy)
    elif version > _NEWEST:
        remedy = "not tested; if something breaks, use Python 3.10 to 3.13"
        yield Line("machine", "Python", "warn", text, remedy)
    else:
        yield Line("machine", "Python", "ok", text)


def check_torch() -> Iterator[Line]:
    """PyTorch, the torchvision beside it, and what computes."""
    try:
        import torch
    except Exception as error:  # a broken shared library raises whatever it likes
        found = f"import torch: {type(error).__name__}: {error}"
        yield Line("machine", "torch", "fail", found, f"reinstall it: {_CHANNEL}")
        return
    yield Line("machine", "torch", "ok", torch.__version__)
    yield _torchvision(torch.__version__)
    yield from _accelerators()


def _torchvision(torch_version: str) -> Line:
    """Whether torchvision fits: a pair that does not breaks timm and Lightning as well."""
    try:
        import torchvision
        from torchvision.ops import nms
    except ImportError as error:
        if "torchvision" in str(error) and "No module" in str(error):
            remedy = f"only timm's backbones need it: {_CHANNEL}"
            return Line("machine", "torchvision", "warn", "not installed", remedy)
        remedy = f"install {_CHANNEL}, or pip uninstall torchvision"
        return Line("machine", "torchvision", "fail", f"cannot be imported: {error}", remedy)
    except Exception as error:  # "operator torchvision::nms does not exist" and its like
        found = f"does not fit torch {torch_version}: {type(error).__name__}: {error}"
        remedy = f"install {_CHANNEL}, or pip uninstall torchvision"
        return Line("machine", "torchvision", "fail", found, remedy)
    assert callable(nms)
    return Line("machine", "torchvision", "ok", f"{torchvision.__version__}, fits torch")


def _accelerators() -> Iterator[Line]:
    """GPUs that torch can compute on; a card that it cannot use is worth a warning."""
    import torch

    has_card = any(Path("/dev").glob("nvidia[0-9]*"))
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        text = f"cuda:{number} {about.name}, {size_text(about.total_memory)}"
        try:
            torch.ones(8, 8, device=f"cuda:{number}").matmul(torch.ones(8, 8, device=number)).sum()
            yield Line("machine", "GPU", "ok", text)
        except Exception as error:  # a driver or kernel that does not fit raises several kinds
            remedy = "take a torch build for this card and driver from pytorch.org/get-started"
            yield Line("machine", "GPU", "fail", f"{text}: {error}", f"{remedy}, or device=cpu")
    if torch.cuda.device_count():
        return
    if torch.backends.mps.is_available():
        yield Line("machine", "GPU", "ok", "Apple's, by device=mps")
    elif has_card and torch.version.cuda is None:
        remedy = "install a CUDA build of torch and torchvision from pytorch.org/get-started"
        yield Line("machine", "GPU", "warn", "a card is here, torch is built without CUDA", remedy)
    elif has_card:
        remedy = "update the driver (nvidia-smi shows it), or take torch for an older CUDA"
        found = f"a card is here, torch for CUDA {torch.version.cuda} cannot use it"
        yield Line("machine", "GPU", "warn", found, remedy)
    else:
        yield Line("machine", "GPU", "ok", "none; everything runs on the CPU, which is slower")


def check_opengl() -> Iterator[Line]:
    """What draws pictures; OpenGL is asked in a process of its own, where it may crash."""
    code = (
        "from hmrkit.render import pyrender_backend as b\n"
        "card, why = b.hardware_renderer()\n"
        "try:\n    gl = b.opengl_renderer()\n"
        "except RuntimeError as error:\n    gl = ''; why = why or str(error.__cause__)\n"
        "print('\\n' + (card or '') + '|' + gl + '|' + ' '.join(why.split()))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_GL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        answer, crash = "||", f"OpenGL does not answer within {_GL_SECONDS} s"
    else:
        answer = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "||"
        crash = f"OpenGL crashes (exit code {done.returncode})" if done.returncode else ""
    card, software, why = answer.split("|", 2)
    if card:
        yield Line("machine", "pictures", "ok", f"drawn by pyrender on {card}")
        return
    yield Line("machine", "pictures", "ok", "drawn by the NumPy rasteriser, which needs no OpenGL")
    if software:
        yield Line("machine", "OpenGL", "ok", f"EGL in software ({software}): backend=pyrender")
    elif sys.platform == "linux":
        remedy = "only backend=pyrender needs it: apt-get install libegl1 libgl1"
        yield Line("machine", "OpenGL", "warn", crash or f"none: {why}", remedy)


def check_resources(folder: Path) -> Iterator[Line]:
    """Cores, memory, shared memory and the disk below ``folder``."""
    yield Line("machine", "cores", "ok", f"{num_cores()} for this process, {os.cpu_count()} in all")
    memory = _memory_bytes()
    if memory is not None:
        text = f"{size_text(memory)}"
        if memory < _ENOUGH_MEMORY:
            remedy = "data.num_workers=0 and a smaller data.batch_size= need less"
            yield Line("machine", "memory", "warn", text, remedy)
        else:
            yield Line("machine", "memory", "ok", text)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        if free < _ENOUGH_SHARED:
            remedy = "docker run --shm-size=8g (or --ipc=host), or data.num_workers=0"
            yield Line("machine", "shared memory", "warn", f"{size_text(free)} free", remedy)
        else:
            yield Line("machine", "shared memory", "ok", f"{size_text(free)} free")
    free = shutil.disk_usage(folder).free
    if free < _ENOUGH_DISK:
        remedy = "paths.datasets= and paths.runs= move what is written to another disk"
        yield Line("machine", "disk", "warn", f"{size_text(free)} free in {folder}", remedy)
    else:
        yield Line("machine", "disk", "ok", f"{size_text(free)} free in {folder}")


def _memory_bytes() -> int | None:
    """Physical memory, or what a container allows of it; None where nobody says."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        total = min(total, int(text))
    return total
