"""Calibrated rigs in the layouts of official datasets: a person of dots in front of cameras."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from scipy.spatial.transform import Rotation

from hmrkit.data.sources.rigs import Camera

SIZE_PX = 120
DOT = "right_wrist"  # the joint that is drawn into every picture
DOT_COLOR = (255, 40, 40)

H36M_ROWS = (  # as Human3.6M orders them
    "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine neck jaw head_top "
    "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist"
)
MPI_ROWS = (  # as MPI-INF-3DHP's mpii_get_joint_set does
    "spine3 spine4 spine2 spine pelvis neck jaw head_top left_clavicle left_shoulder left_elbow "
    "left_wrist left_hand right_clavicle right_shoulder right_elbow right_wrist right_hand "
    "left_hip left_knee left_ankle left_foot left_toe "
    "right_hip right_knee right_ankle right_foot right_toe"
)
MPI_TEST_ROWS = (
    "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
    "right_hip right_knee right_ankle left_hip left_knee left_ankle pelvis spine jaw"
)


def person(seed: int, rows: str) -> np.ndarray:
    """Joints (K, 3) m of a world whose z points up; no two moments are alike."""
    names = rows.split()
    rng = np.random.default_rng(seed)
    spread = rng.uniform([-0.5, -0.3, 0.1], [0.5, 0.3, 1.7], (len(names), 3))
    side = np.array([-1.0 if "right" in n else 1.0 if "left" in n else 0.0 for n in names])
    return spread + side[:, None] * [1.0, 0, 0] * 0.2


def ring(num: int, size_px: float = SIZE_PX, distance: float = 4.0) -> list[Camera]:
    """Cameras around the person, each with another focal length."""
    cameras = []
    for i in range(num):
        turn = Rotation.from_euler("z", 360 / num * i + 20, degrees=True)
        rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ turn.as_matrix()
        center = turn.inv().apply([0.05 * i, -distance, 1.0])
        focal = size_px * (1.1 + 0.02 * i)
        intrinsics = np.array([[focal, 0, size_px / 2 + i], [0, focal + 1, size_px / 2], [0, 0, 1]])
        cameras.append(Camera(intrinsics, rotation, -rotation @ center))
    return cameras


def seen(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Points (K, 3) m of the world in px (K, 2), written out."""
    inside = np.einsum("ij,kj->ki", camera.rotation, points) + camera.translation
    (fx, _, cx), (_, fy, cy), _ = camera.intrinsics
    return np.stack([fx * inside[:, 0], fy * inside[:, 1]], -1) / inside[:, 2:] + [cx, cy]


def draw(camera: Camera, points: np.ndarray, rows: str, size_px: int = SIZE_PX) -> np.ndarray:
    """A picture (H, W, 3) RGB with a dot at one joint."""
    image = np.full((size_px, size_px, 3), 90, np.uint8)
    x, y = seen(camera, points)[rows.split().index(DOT)]
    cv2.circle(image, (round(x * 16), round(y * 16)), 4 * 16, DOT_COLOR, -1, cv2.LINE_AA, shift=4)
    return image


def write_image(path: Path, image: np.ndarray) -> None:
    """An image file of RGB pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def has_dot(image: np.ndarray, point: np.ndarray) -> bool:
    """Whether the dot is where a keypoint (2,), px, says."""
    column, row = np.round(point[:2]).astype(int)
    return bool(np.abs(image[row, column].astype(int) - DOT_COLOR).max() < 60)


def body(seed: int) -> dict[str, list[float]]:
    """What NeuralAnnot holds of a moment."""
    rng = np.random.default_rng(seed)
    sizes = {"pose": 72, "shape": 10, "trans": 3}
    return {name: rng.normal(0, 0.4, size).round(6).tolist() for name, size in sizes.items()}


def h36m_name(subject: int, action: int, subaction: int, camera: int, number: int) -> str:
    """An image as H36M-Toolbox names it."""
    folder = f"s_{subject:02d}_act_{action:02d}_subact_{subaction:02d}_ca_{camera:02d}"
    return f"{folder}/{folder}_{number:06d}.jpg"


def write_h36m_jsons(folder: Path, subject: int, moments: dict, with_smpl: bool = True) -> None:
    """3DMPPE's and NeuralAnnot's files of a subject.

    Args:
        folder: is created.
        subject: number.
        moments: ``{(action, subaction, image number): seed of the person}``.
        with_smpl: write the bodies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cameras = {
        str(i + 1): {
            "R": c.rotation.tolist(),
            "t": (1000 * c.translation).tolist(),
            "f": [c.intrinsics[0, 0], c.intrinsics[1, 1]],
            "c": c.intrinsics[:2, 2].tolist(),
        }
        for i, c in enumerate(ring(4))
    }
    points: dict = {}
    bodies: dict = {}
    for (action, subaction, number), seed in moments.items():
        for labels, value in (
            (points, (1000 * person(seed, H36M_ROWS)).tolist()),
            (bodies, body(seed)),
        ):
            frames = labels.setdefault(str(action), {}).setdefault(str(subaction), {})
            frames[str(number - 1)] = value
    stem = f"Human36M_subject{subject}_"
    (folder / f"{stem}camera.json").write_text(json.dumps(cameras))
    (folder / f"{stem}joint_3d.json").write_text(json.dumps(points))
    if with_smpl:
        (folder / f"{stem}SMPL_NeuralAnnot.json").write_text(json.dumps(bodies))


def write_toolbox_pickle(path: Path, rows: list[tuple[int, ...]], distortion_px: float) -> None:
    """H36M-Toolbox's list: rows of subject, action, subaction, camera, image number."""
    database = []
    for subject, action, subaction, number_of_camera, number in rows:
        camera = ring(4)[number_of_camera - 1]
        points = person(number, H36M_ROWS)
        column = lambda *values: np.array(values)[:, None]  # noqa: E731
        database.append(
            {
                "image": h36m_name(subject, action, subaction, number_of_camera, number),
                "joints_2d": seen(camera, points) + distortion_px,
                "joints_3d": 1000 * points,  # of the universal skeleton; not for us
                "joints_3d_camera": 1000 * camera.to_camera(points),
                "joints_vis": np.ones((17, 3)),
                "subject": subject,
                "action": action,
                "subaction": subaction,
                "camera_id": number_of_camera - 1,
                "source": "h36m",
                "camera": {
                    "R": camera.rotation,
                    "T": 1000 * (-camera.rotation.T @ camera.translation)[:, None],
                    "fx": column(camera.intrinsics[0, 0])[0],
                    "fy": column(camera.intrinsics[1, 1])[0],
                    "cx": column(camera.intrinsics[0, 2])[0],
                    "cy": column(camera.intrinsics[1, 2])[0],
                    "k": column(0.1, 0, 0),
                    "p": column(0, 0),
                },
                "center": (60.0, 60.0),
            }
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(database))


def write_calibration(path: Path, cameras: list[Camera], size_px: int = SIZE_PX) -> None:
    """MPI-INF-3DHP's camera.calibration."""
    lines = ["Skeletool Camera Calibration File V1.0"]
    for i, camera in enumerate(cameras):
        intrinsic, extrinsic = np.eye(4), np.eye(4)
        intrinsic[:3, :3] = camera.intrinsics
        extrinsic[:3, :3], extrinsic[:3, 3] = camera.rotation, 1000 * camera.translation
        write = lambda matrix: " ".join(f"{value:.9g}" for value in matrix.ravel())  # noqa: E731
        lines += [
            f"name          {i}",
            "  sensor      10 10 ",
            f"  size        {size_px} {size_px} ",
            "  animated    0 ",
            f"  intrinsic   {write(intrinsic)} ",
            f"  extrinsic   {write(extrinsic)} ",
            "  radial      0 ",
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_mpi_annotations(path: Path, cameras: list[Camera], people: list[np.ndarray]) -> None:
    """MPI-INF-3DHP's annot.mat: a cell per camera of (N, 56) and (N, 84)."""
    cells = {name: np.empty((len(cameras), 1), object) for name in ("annot2", "annot3", "univ")}
    for i, camera in enumerate(cameras):
        inside = np.stack([1000 * camera.to_camera(points) for points in people])
        cells["annot2"][i, 0] = np.stack([seen(camera, points).ravel() for points in people])
        cells["annot3"][i, 0] = inside.reshape(len(people), -1)
        cells["univ"][i, 0] = 1.1 * inside.reshape(len(people), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.arange(len(people))[:, None]
    scipy.io.savemat(
        path,
        {
            "annot2": cells["annot2"],
            "annot3": cells["annot3"],
            "univ_annot3": cells["univ"],
            "frames": frames,
            "cameras": np.arange(len(cameras))[None],
        },
        do_compression=True,
    )


def write_video(path: Path, images: list[np.ndarray]) -> None:
    """An avi of RGB pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
