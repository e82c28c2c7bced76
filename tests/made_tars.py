"""Tars as 4D-Humans and TokenHMR pack them, for the tests of converters and of use in place."""

import cv2
import numpy as np
import webdataset

HEIGHT, WIDTH = 90, 120


def person(seed=0, **changes):
    """One dict of a ``.data.pyd``, every label there."""
    rng = np.random.default_rng(seed)
    keypoints_2d = np.ones((44, 3), np.float32)
    keypoints_2d[:, :2] = rng.uniform(20, 80, (44, 2))
    keypoints_3d = np.ones((44, 4), np.float32)
    keypoints_3d[:, :3] = rng.normal(0, 0.4, (44, 3))
    made = {
        "center": rng.uniform(40, 60, 2).astype(np.float32),
        "scale": np.float32([0.24, 0.36]),  # 48 x 72 px
        "keypoints_2d": keypoints_2d,
        "keypoints_3d": keypoints_3d,
        "body_pose": rng.normal(0, 0.2, 72).astype(np.float32),
        "betas": rng.normal(0, 0.5, 10).astype(np.float32).clip(-1, 1),
        "has_body_pose": np.array(1.0),
        "has_betas": np.array(1.0),
        "extra_info": {
            "detection_npz_idx": 0,
            "fitting_loss": np.array({"reprojection_loss": 500.0, "body_pose": 3.0}, object),
        },
    }
    return {**made, **changes}


def photo(seed=0, suffix=".jpg"):
    """The bytes of a small picture."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return cv2.imencode(suffix, cv2.resize(coarse, (WIDTH, HEIGHT)))[1].tobytes()


def write_tar(path, records):
    """Write ``[(key, people)]`` or ``[(key, people, {extension: bytes})]`` as the authors do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as tar:
        for number, (key, people, *images) in enumerate(records):
            masks = {"masks": np.ones((len(people), 4, 4), bool)}
            files = images[0] if images else {"jpg": photo(number)}
            tar.write({"__key__": key, **files, "data.pyd": people, "detection.npz": masks})
    return path
