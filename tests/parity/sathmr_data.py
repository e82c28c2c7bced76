"""SAT-HMR's data path: official files -> prepare -> shard -> Scenes -> Batch, against upstream.

One kind of case, ``data_*``, beside a folder ``data_root`` in the layout of upstream's. Upstream's
pixels begin at the corner of the image, as labels do in ``geometry: sathmr``. In a mirrored sample
upstream poses the body of the mirrored parameters, which for the lopsided bodies of the cases is
not the mirrored body. So joints, boxes and vertices are those of the batch's bodies, posed here,
and the batch's keypoints are compared with them where nothing is mirrored. Scale maps belong to the
network, and constants (labels, j2ds_mask, 3d_valid, detect_all_people) to nobody.
"""

from functools import cached_property
from pathlib import Path

import fill
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from parity_case import Case
from scipy.spatial.transform import Rotation

from hmrkit.body import joints
from hmrkit.body.gendered import GenderedBodies
from hmrkit.configs import load_config
from hmrkit.data.augment import AugmentParams
from hmrkit.data.collate import collate, normalize_image
from hmrkit.data.erase import Erase, Rectangle
from hmrkit.data.prepare import prepare
from hmrkit.data.scenes import Scenes
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.image_folder import ImageFolder
from hmrkit.data.sources.official import read_arrays, record_key
from hmrkit.types import Batch, Body, Sample

# Upstream's set: its folder below data_root, and the source that prepares it.
SETS = {
    "agora.train": ("agora", "agora_sathmr_train"),
    "agora.validation": ("agora", "agora_sathmr_val"),
    "agora.test": ("agora", "agora_test"),
    "bedlam.train_6fps": ("bedlam", "bedlam_sathmr_train_6fps"),
    "bedlam.train_1fps": ("bedlam", "bedlam_sathmr_train_1fps"),
    "bedlam.validation_6fps": ("bedlam", "bedlam_sathmr_val_6fps"),
    "coco.train": ("coco", "coco_2017_neuralannot"),
    "mpii.train": ("mpii", "mpii_neuralannot"),
    "crowdpose.train": ("crowdpose", "crowdpose_neuralannot"),
    "h36m.train": ("h36m", "h36m_sathmr_train"),
    "3dpw.train": ("3dpw", "3dpw_sathmr_train"),
    "3dpw.test": ("3dpw", "3dpw_sathmr_test"),
}
# SAT-HMR's recipe as overrides of data=scenes.
RECIPE = (
    "data.cut.with_antialias=false",
    "data.cut.geometry=sathmr",
    "data.cut.min_visible_joints=4",
    "data.cut.augment.rotation_std_deg=null",
    "data.cut.augment.rotation_max_deg=15",
    "data.cut.augment.zoom=[0.8,1.8]",
    "data.cut.augment.color_gain=[1.0,1.0]",
    "data.cut.augment.color_jitter=0.2",
    "data.cut.erase={_target_:hmrkit.data.erase.Erase}",
)
SMPL45 = joints.index(joints.names("smpl45"), "all")
GENDERS = {0: "male", 1: "female"}
STEPS = ("brightness", "contrast", "saturation", "hue")
OCCLUDED_HW = (728, 1288)  # the image of the occlusion sampler; the case does not say its size


def check_data(case: Case, tmp_path: Path) -> None:
    """Every sample of the case within its tolerances, and the occlusion sampler."""
    checked = DataCase(case, tmp_path)
    for name in case.spec["scalars"]:
        checked.check_sample(name)
    checked.check_occlusions()
    assert not checked.unchecked, f"not compared: {sorted(checked.unchecked)}"


class DataCase:
    """One case, its files and its bodies."""

    def __init__(self, case: Case, tmp_path: Path):
        self.case, self.folder = case, tmp_path
        self.root = case.path.parent / "data_root"
        self.outputs = {output["name"]: output for output in case.spec["outputs"]}
        of_network = ("labels", "j2ds_mask", "scale_map", "scale_map_pos", "kid")
        self.unchecked = {
            name for name in self.outputs if name.rpartition(".")[2] not in of_network
        }
        write_bodies(tmp_path / "body_models", case.salt)
        self.bodies = GenderedBodies(tmp_path / "body_models")
        self.shards: dict[str, ShardSet] = {}

    @cached_property
    def scenes(self) -> Scenes:
        overrides = ["model=hmr", "data=scenes", "run_dir=run", *RECIPE]
        return instantiate(load_config("train", overrides).data.cut)

    def check(self, name: str, actual: np.ndarray) -> None:
        """Compare with a recorded array at the case's own tolerance."""
        spec, expected = self.outputs[name], self.case.arrays[name]
        self.unchecked.discard(name)
        assert list(actual.shape) == spec["shape"], f"{name} is {actual.shape}, not {spec['shape']}"
        if "::" in spec["stored"]:
            actual = actual.reshape(-1)[:: int(spec["stored"].partition("::")[2].rstrip("]"))]
        error = np.abs(actual.astype(np.float64) - expected)
        allowed = 0 if spec.get("exact") else spec["atol"] + spec["rtol"] * np.abs(expected)
        worst = (error - allowed).max(initial=-1)
        assert worst <= 0, f"{name} is off by {error.max():.3g}, allowed {np.max(allowed):.3g}"

    def check_sample(self, name: str) -> None:
        recorded = self.case.spec["scalars"][name]
        kind, _, number = name.rpartition(".")
        params = AugmentParams()
        if kind == "aug":
            params = self.params(number)
            kind, number = next(k for k in SETS if k.startswith(f"{number}.train")), "0"
        sample = self.record(kind, int(number))
        batch = collate([self.scenes.cut(sample, params)])
        self.check(f"{name}.img", normalize_image(batch["image"])[0].numpy())
        self.check(f"{name}.img_size", batch["input_size"][0].numpy())
        rate = np.float32(max(batch["input_size"][0].tolist()) / max(sample["images"][0].shape))
        assert abs(rate - recorded["resize_rate"]) < 1e-6
        if "pnum" in recorded:
            linear = _img_to_input(batch)[:2, :2] * params.scale
            assert np.sqrt(abs(np.linalg.det(linear))) == pytest.approx(recorded["resize_rate"])
            assert len(batch["has_pose"]) == recorded["pnum"]
            assert bool(batch["has_pose"].all() & batch["has_betas"].all())
            genders = [GENDERS.get(code) for code in batch["gender"].tolist()]
            assert genders == recorded.get("genders", [None] * recorded["pnum"])
            self.check_people(name, batch, params.is_flipped)

    def check_people(self, name: str, batch: Batch, is_flipped: bool) -> None:
        body, people = batch["body"], len(batch["has_pose"])
        cameras = _cameras(batch)
        vertices, points = self.pose(body, batch["gender"])
        rays = np.einsum("pij,pkj->pki", cameras, points)
        px = rays[..., :2] / rays[..., 2:]
        focal, depth = cameras[:, 0, 0], points[:, 0, 2]
        self.check(f"{name}.poses", _axis_angles(body))
        self.check(f"{name}.betas", body.betas.numpy())
        self.check(f"{name}.transl", body.transl.numpy())
        self.check(f"{name}.verts", vertices)
        self.check(f"{name}.j3ds", points)
        self.check(f"{name}.j2ds", px)
        self.check(f"{name}.depths", np.stack([depth, depth / focal], axis=1))
        self.check(f"{name}.boxes", _boxes(px, batch["input_size"][0].numpy()))
        wanted = self.outputs[f"{name}.cam_intrinsics"]["shape"][0]
        self.check(f"{name}.cam_intrinsics", cameras[:wanted])
        wanted = self.outputs[f"{name}.focals"]["shape"][0]
        assert wanted in (1, people)
        self.check(f"{name}.focals", focal[:wanted, None])
        if not is_flipped:
            height, width = batch["input_size"][0].tolist()
            keypoints = batch["keypoints_crop"][:, SMPL45].numpy()
            assert (keypoints[..., 2] == 1).all()
            self.check(f"{name}.j2ds", (keypoints[..., :2] + 1) / 2 * [width, height])
            self.check(f"{name}.j3ds", batch["keypoints_world"][:, SMPL45, :3].numpy())

    def pose(self, body: Body, gender: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (P, V, 3) and joints (P, 45, 3) of the batch's people, each in their body."""
        vertices, points = [], []
        for person, code in enumerate(gender.tolist()):
            one = Body(*(getattr(body, part)[person : person + 1] for part in vars(body)))
            mesh = self.bodies[code](one)
            vertices.append(mesh.vertices[0].numpy())
            points.append(self.bodies[code].joints_from_mesh(mesh, "smpl45")[0].numpy())
        return np.stack(vertices), np.stack(points)

    def record(self, kind: str, number: int) -> Sample:
        """Record of the image that is number ``number`` of the annotation file."""
        folder, source = SETS.get(kind, ("infer", None))
        converter = ImageFolder(".", "") if source is None else self.converter(source)
        if kind not in self.shards:
            output = self.folder / kind
            prepare(converter, kind, self.root / folder, output, workers=0, image_format="png")
            self.shards[kind] = ShardSet(output, kind)
        shards = self.shards[kind]
        keys = [shards.key(i) for i in range(len(shards))]
        if source == "agora_test":
            return shards.read(number)
        if source is None:
            names = self.case.spec["infer_files"]
            assert len(names) == len(keys), "other files than images are passed over"
        else:
            annotations = read_arrays(self.root / folder / converter.annotations, ["annots"])
            names = list(annotations["annots"][()])
        return shards.read(keys.index(record_key(names[number])))

    def converter(self, source: str):
        paths = [f"source={source}", f"paths.datasets={self.folder}", "input=unused"]
        return instantiate(load_config("prepare", paths).source.prepare)

    def params(self, source: str) -> AugmentParams:
        """Upstream's draws as ours: it negates the angle of a mirrored image."""
        recorded = self.case.spec["augmentation"]
        drawn, jitter = recorded["draws"][source], recorded["color_jitter"]
        places = recorded["occlusion_boxes"]["(ymin, h, xmin, w)"]
        names = [STEPS[step] for step in jitter["order"]]
        return AugmentParams(
            scale=1 / drawn["scale"],
            rotation_deg=-drawn["rot"] if drawn["flip"] else drawn["rot"],
            is_flipped=drawn["flip"],
            color_jitter=tuple((name, jitter[name]) for name in names if name in jitter),
            rectangles=tuple(
                Rectangle(left, top, self.noise(height, width))
                for top, height, left, width in places
                if height * width
            ),
        )

    def noise(self, height: int, width: int) -> np.ndarray:
        """What upstream painted, written into a BGR image."""
        noise = fill.unit("aug.noise", (height, width, 3), self.case.salt) / np.sqrt(12) + 0.5
        return (255 * np.clip(noise, 0, 0.999999)).astype(np.uint8)[..., ::-1]

    def check_occlusions(self) -> None:
        values = iter(self.case.arrays["occ.rand"].tolist())
        rng = type("Recorded", (), {"random": lambda self: next(values)})()
        center, size = np.split(self.case.arrays["occ.boxes"].astype(np.float64) * 1288, 2, axis=1)
        boxes = np.concatenate([center - size / 2, center + size / 2], axis=1)
        places = [Erase().place(rng, box, OCCLUDED_HW) or (0, 0, 0, 0) for box in boxes]
        self.check("occ.result", np.array(places))
        used = len(self.case.arrays["occ.rand"]) - len(list(values))
        assert used == self.case.spec["occ_draws_used"]


def write_bodies(folder: Path, salt: str) -> None:
    """The bodies of a case as files, in the layout of the licensed ones."""
    folder.mkdir()
    for name, own_salt in (("NEUTRAL", ""), ("MALE", "/male"), ("FEMALE", "/female")):
        np.savez(folder / f"SMPL_{name}.npz", **fill.smpl(salt + own_salt))
    for name, rows in (("extra", 9), ("h36m", 17)):
        regressor = fill.joint_regressor(f"J_regressor_{name}", rows, salt)
        np.save(folder / f"J_regressor_{name}.npy", regressor)


def _img_to_input(batch: Batch) -> np.ndarray:
    """(3, 3) labels of the source image to px of the input."""
    height, width = batch["input_size"][0].tolist()
    to_img = np.vstack([batch["crop_to_img"][0].double().numpy(), [0, 0, 1]])
    units_to_px = np.array([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]])
    return units_to_px @ np.linalg.inv(to_img)


def _cameras(batch: Batch) -> np.ndarray:
    """(P, 3, 3) camera matrices, from the frame of the labels to px of the input."""
    turn = batch["world_to_camera"][0, :3, :3].double().numpy()
    assert not batch["world_to_camera"][0, :3, 3].any()
    return _img_to_input(batch) @ batch["intrinsics_of_view"].double().numpy() @ turn


def _axis_angles(body: Body) -> np.ndarray:
    rotmats = torch.cat([body.global_orient[:, None], body.body_pose], dim=1)
    rotations = Rotation.from_matrix(rotmats.reshape(-1, 3, 3).numpy())
    return rotations.as_rotvec().reshape(len(rotmats), 72)


def _boxes(px: np.ndarray, size_hw: np.ndarray) -> np.ndarray:
    """Boxes (P, 4) of joints (P, K, 2): centre and size, in shares of 1288 px, with a margin."""
    low, high = px.min(axis=1), px.max(axis=1)
    center, half = (low + high) / 2, (high - low) * 1.2 / 2
    limit = (size_hw[::-1] - 1) / 1288
    low, high = (np.clip(x / 1288, 1e-6, limit) for x in (center - half, center + half))
    return np.concatenate([(low + high) / 2, high - low], axis=1)
