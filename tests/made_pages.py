"""What a browser shows of a page, for tests that look at one."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")


def screenshot(page: Path, size_wh: tuple[int, int], fragment: str = "") -> np.ndarray:
    """(H, W, 3) uint8 RGB, without network."""
    shot = page.with_name(f"{page.stem}_{fragment.replace('=', '_')}.png")
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--virtual-time-budget=4000",
        f"--user-data-dir={page.parent / 'profile'}",
        "--window-size={},{}".format(*size_wh),
        f"--screenshot={shot}",
        f"{page.resolve().as_uri()}#{fragment}",
    ]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    return cv2.imread(str(shot))[..., ::-1]
