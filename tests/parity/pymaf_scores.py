"""What PyMAF's programs print and return: errors of test sets, COCO's AP, the demo, plain HMR."""

import json
import pickle
import re
from pathlib import Path

import cv2
import fill
import numpy as np
import torch
from official_case import official_shards
from parity_case import Case, body
from pymaf_nets import compare, given, official_state, outputs
from torch import Tensor

from hmrkit.checkpoints import load_official
from hmrkit.configs import load_config, to_plain
from hmrkit.data.collate import collate
from hmrkit.data.spin_crops import SpinCrops
from hmrkit.evaluation import Protocol, build_protocol
from hmrkit.geometry.boxes import box_to_center_side, crop_affine, invert_affine
from hmrkit.geometry.cameras import (
    crop_intrinsics,
    crop_to_full_intrinsics,
    weak_perspective_to_transl,
)
from hmrkit.infer.predict import move_to_camera
from hmrkit.keypoint_ap import annotated_people, average_precision, found_people
from hmrkit.reporting.breakdown import breakdown
from hmrkit.types import Batch, Body, Prediction

SOURCES = {
    "3dpw": "3dpw_spin_test",
    "h36m-p2": "h36m_spin_p2_mosh",
    "mpi-inf-3dhp": "mpi_inf_3dhp_spin_test",
}
METRICS = {"mpjpe": "mpjpe", "recon_err": "pa_mpjpe", "pve": "pve"}
FOCAL_PX, SIDE_PX = 5000.0, 224
CAMERA = crop_intrinsics(FOCAL_PX, (SIDE_PX, SIDE_PX))


def protocol_of(source: str, **changes: str) -> Protocol:
    config = to_plain(load_config("prepare", [f"source={source}", "input=download"]))
    return build_protocol(config["source"]["protocol"] | changes)


def prediction_of(rotmat: Tensor, betas: Tensor, cam: Tensor, neutral) -> Prediction:
    one = Body(rotmat[:, 0], rotmat[:, 1:], betas, torch.zeros(len(betas), 3))
    return Prediction(
        body=one,
        transl_cam=weak_perspective_to_transl(cam, FOCAL_PX, SIDE_PX),
        intrinsics_crop=CAMERA.expand(len(betas), 3, 3),
        mesh=neutral(one),
    )


def check_eval_metrics(case: Case, tmp_path: Path) -> None:
    """Every data set through its own source: annotation file, shards, protocol."""
    neutral = body(case.salt)
    betas = given(case, "pred_betas")
    rotmat = given(case, "pred_rotmat")
    prediction = prediction_of(rotmat, betas, torch.tensor([[0.9, 0, 0]] * len(betas)), neutral)
    write_bodies(tmp_path / "body_models", case.salt)
    expected = outputs(case)
    seen = set()
    for name in dict.fromkeys(key.split(".")[0] for key in expected):
        own = {"body_models": str(tmp_path / "body_models")} if name == "3dpw" else {}
        protocol = protocol_of(SOURCES[name], **own)
        batch = labelled_people(case, SOURCES[name], tmp_path / name)
        with torch.no_grad():
            rows = protocol.measure(prediction, batch, neutral)
        for theirs, ours in METRICS.items():
            compare(case, f"{name}.{theirs}", rows[ours] / 1000)
            compare(case, f"{name}.{theirs}.mean_mm", rows[ours].mean())
            seen |= {f"{name}.{theirs}", f"{name}.{theirs}.mean_mm"}
        if name == "h36m-p2":
            _check_actions(case, protocol, rows, batch)
    assert seen == set(expected)


def _check_actions(case: Case, protocol: Protocol, rows: dict[str, Tensor], batch: Batch) -> None:
    columns = {key: value.numpy() for key, value in rows.items()}
    table = protocol.complete({**columns, "key": np.array(batch["key"])})
    means = {name.lower(): one for name, one in breakdown(table)["actions"].items()}
    for action, wanted in case.spec["h36m_actions_mm"]["act_paMPJPE"].items():
        np.testing.assert_allclose(means[action.lower()]["pa_mpjpe"], wanted, rtol=1e-4)


def write_bodies(folder: Path, salt: str) -> None:
    """The case's bodies as licensed ones lie in a folder."""
    folder.mkdir()
    for gender in ("neutral", "male", "female"):
        arrays = fill.smpl(salt if gender == "neutral" else salt + gender)
        (folder / f"SMPL_{gender.upper()}.pkl").write_bytes(pickle.dumps(arrays))
    for name, rows in (("J_regressor_extra", 9), ("J_regressor_h36m", 17)):
        np.save(folder / f"{name}.npy", fill.joint_regressor(name, rows, salt))


def labelled_people(case: Case, source: str, folder: Path) -> Batch:
    """The labels of a case, written in SPIN's format and read through a source."""
    num = len(given(case, "gt_betas"))
    names = case.spec["imgname"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((64, 64, 3), 99, np.uint8))
    rows = {
        "imgname": names,
        "center": np.full((num, 2), 32.0),
        "scale": np.full(num, 0.25),
        "pose": case.arrays["in.gt_pose"],
        "shape": case.arrays["in.gt_betas"],
    }
    if source == "3dpw_spin_test":
        words = np.array(["m", "f", "neutral"])  # -1 is unknown
        rows["gender"] = words[case.arrays["in.gender"]]
    else:
        rows["S"] = case.arrays["in.pose_3d"]
    np.savez(folder / "annotations.npz", **rows)
    shards = official_shards(source, folder, ["source.prepare.annotations=annotations.npz"])
    crops, records = SpinCrops((SIDE_PX, SIDE_PX)), {}
    for i in range(len(shards)):
        record = shards.read(i)
        for view in range(len(record["image_of_view"])):
            cut = crops.cut(record, view, crops.draw(record, None))
            records[cut["pose"].tobytes()] = cut
    order = [row.reshape(1, 24, 3).astype(np.float32).tobytes() for row in rows["pose"]]
    return collate([records[key] for key in order])


def check_eval_coco(case: Case, tmp_path: Path) -> None:
    """Joints in the image, the file of annotations, and the ten numbers."""
    neutral, expected = body(case.salt), outputs(case)
    cams = given(case, "cam")
    prediction = prediction_of(given(case, "rotmat"), given(case, "betas"), cams, neutral)
    maps = [
        _crop_to_img(center, 200 * scale)
        for center, scale in zip(case.arrays["in.center"], case.arrays["in.scale"], strict=True)
    ]
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(case.spec["coco_annotations"]))
    protocol = protocol_of("coco_2014_spin_val", annotations=str(annotations))
    num = len(cams)
    batch: Batch = {
        "crop_to_img": torch.from_numpy(np.stack(maps)).float(),
        "has_pose": torch.zeros(num, dtype=torch.bool),
        "keypoints_crop": torch.zeros(num, _num_joints(), 3),
        "box_img": torch.tensor([[0.0, 0, 100, 100]] * num),
    }
    with torch.no_grad():
        rows = protocol.measure(prediction, batch, neutral)
    compare(case, "keypoints_px", rows["_coco"])
    names = {int(i["id"]): i["file_name"] for i in case.spec["coco_annotations"]["images"]}
    keys = [names[i].rsplit(".", 1)[0] for i in case.arrays["in.image_id"].tolist()]
    columns = {key: value.numpy() for key, value in rows.items()} | {"key": np.array(keys)}
    summary = protocol.summary(columns)
    for kind in ("AP", "AR"):
        for theirs, ours in (("", ""), (" .5", "50"), (" .75", "75"), (" (M)", "_medium"),
                             (" (L)", "_large")):  # fmt: skip
            word = "Ap" if (kind, theirs) == ("AP", " .5") else kind
            compare(case, f"stat.{word}{theirs}", summary[f"{kind.lower()}{ours}"] / 100)
    everybody = np.ones(num)
    compare(case, "score", everybody)
    recorded = expected["keypoints_px"]  # the numbers follow from the recorded joints as well
    ids = case.arrays["in.image_id"]
    found = {i: found_people(recorded[ids == i], everybody[ids == i]) for i in set(ids.tolist())}
    content = case.spec["coco_annotations"]
    again = average_precision(annotated_people(content["images"], content["annotations"]), found)
    compare(case, "stat.AP", again["ap"])
    assert len(expected) == 12


def _num_joints() -> int:
    from hmrkit.body import joints

    return len(joints.names("all"))


def _crop_to_img(center: np.ndarray, side_px: float) -> np.ndarray:
    """Crop units to image px (2, 3)."""
    to_px = crop_affine(center, side_px, (SIDE_PX, SIDE_PX))
    to_units = np.array([[2 / SIDE_PX, 0, -1], [0, 2 / SIDE_PX, -1], [0, 0, 1]])
    return invert_affine((to_units @ np.vstack([to_px, [0, 0, 1]]))[:2])


def check_hmr_forward(case: Case, tmp_path: Path) -> None:
    """The plain regressor that lives in the same repository."""
    torch.save({"model": official_state(case)}, tmp_path / "official.pt")
    module = load_official(
        "hmr", tmp_path / "official.pt", body=body(case.salt), input_size=(SIDE_PX, SIDE_PX)
    )
    image = fill.image("img", case.spec["inputs"]["img"]["shape"], case.salt)
    with torch.no_grad():
        prediction = module({"image": torch.from_numpy(image)})
    one = prediction.body
    compare(case, "rotmat", torch.cat([one.global_orient[:, None], one.body_pose], dim=1))
    compare(case, "betas", one.betas)
    compare(case, "cam", prediction.extra["cam"])


def check_demo_cameras(case: Case) -> None:
    """Cameras of the whole image, who is drawn over whom, and boxes of tracks."""
    num = len(given(case, "pred_cam"))
    text = case.spec["outputs"]["orig_cam"]["meaning"]
    width, height = (int(n) for n in re.search(r"(\d+)x(\d+) image", text).groups())
    box = case.arrays["in.bbox"].astype(np.float64)
    maps = torch.from_numpy(np.stack([_crop_to_img(b[:2], b[3]) for b in box]))
    intrinsics = crop_to_full_intrinsics(CAMERA.double().expand(num, 3, 3), maps)
    transl = weak_perspective_to_transl(given(case, "pred_cam").double(), FOCAL_PX, SIDE_PX)
    half = torch.tensor([width, height], dtype=torch.float64) / 2
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, :2]
    scale = focal / transl[:, 2:] / half
    shift = (intrinsics[:, :2, 2] - half) / half / scale + transl[:, :2]
    compare(case, "orig_cam", torch.cat([scale, shift], dim=1).numpy())
    _check_order(case, transl, intrinsics, (width, height))
    for number, track in case.spec["tracks_out"].items():
        rows = [
            (frame, row[:4])
            for frame, people in enumerate(case.spec["tracks_in"])
            for row in people
            if int(row[4]) == int(number)
        ]
        assert [frame for frame, _ in rows] == track["frames"]
        for (_, corners), wanted in zip(rows, track["bbox"], strict=True):
            center, side = box_to_center_side(np.array(corners), 1.0, 1.0)
            np.testing.assert_allclose([*center, side, side], wanted, rtol=1e-9)


def _check_order(case: Case, transl: Tensor, intrinsics: Tensor, size_wh: tuple[int, int]) -> None:
    """Upstream paints the larger later; here the nearer hides the farther: the same people."""
    camera = torch.tensor(
        [[FOCAL_PX, 0, size_wh[0] / 2], [0, FOCAL_PX, size_wh[1] / 2], [0, 0, 1]]
    ).double()
    depth = move_to_camera(transl, intrinsics, camera)[1][:, 2]
    text, num_frames = case.spec["render_order_input"].rsplit(";", 1)
    frames: list[list[tuple[float, int]]] = [[] for _ in range(int(num_frames.split()[0]))]
    for part in text.replace("persons", "").split(";"):
        person, rest = part.split(":")
        where, cams = ([int(n) for n in re.findall(r"\d+", s)] for s in rest.split("cam"))
        for frame, cam in zip(where, cams, strict=True):
            frames[frame].append((-float(depth[cam]), int(person)))
    assert [[person for _, person in sorted(one)] for one in frames] == case.spec["render_order"]
