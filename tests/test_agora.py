"""AGORA's official download: camera dataframes of pandas, SMPL fits, images; and its children."""

import pickle
import sys
import types
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
import smplx
import torch
from smplx.utils import Struct

from hmrkit.body import joints
from hmrkit.data.shards import ShardSet
from hmrkit.data.sources.agora import Agora
from hmrkit.data.sources.dataframes import read_dataframe
from official_files import convert, read_all, write_bodies, write_photo

pandas = pytest.importorskip("pandas", reason="the dataframes are written by pandas itself")

SMPL45 = joints.index(joints.names("smpl45"))
ARCHVIZ, HDRI = "ag_trainset_archviz_5_10_cam01_00000.png", "ag_trainset_hdri_50mm_5_10_00001.png"
BRUSH = "ag_trainset_brushify_5_15_00002.png"
# Adult, child, somebody invalid, somebody without a fit.
PATHS = [f"smpl_gt/trainset/scan_{name}_0_0.obj" for name in ("a", "kid", "b", "none")]


def fit(seed: int, num_betas: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "betas": rng.normal(0, 0.5, (1, num_betas)).clip(-1, 1),
        "body_pose": rng.normal(0, 0.2, (1, 69)),
        "root_pose": rng.normal(0, 0.3, (1, 3)),
        "translation": rng.normal(0, 0.2, (1, 3)),
    }


FITS = [fit(0, 10), fit(1, 11), fit(2, 10)]


def frame() -> "pandas.DataFrame":
    """As distributed: a scalar or a list with an entry per person in every cell."""
    places = {  # in front of each camera, cm, x forward y right z up before the camera is turned
        ARCHVIZ: ([40.0, 40, 40, 40], [-120.0, -120, -60, 0], [0.0] * 4),
        HDRI: ([600.0, 700, 650, 620], [-60.0, 40, 0, 0], [80.0] * 4),
        BRUSH: ([500.0, 520, 480, 500], [-50.0, 60, 0, 0], [90.0] * 4),
    }
    rows = {name: [[360.0, 90.5, 200.0, -30.0], [False, True, False, False]] for name in places}
    return pandas.DataFrame(
        {
            "imgPath": list(places),
            "X": [xyz[0] for xyz in places.values()],
            "Y": [xyz[1] for xyz in places.values()],
            "Z": [xyz[2] for xyz in places.values()],
            "Yaw": [row[0] for row in rows.values()],
            "camX": [np.nan, np.nan, -20.0],
            "camY": [np.nan, np.nan, 15.0],
            "camZ": [np.nan, np.nan, 10.0],
            "camYaw": [np.nan, np.nan, 12.5],
            "gender": [["female", "male", "male", "male"]] * 3,
            "kid": [row[1] for row in rows.values()],
            "occlusion": [[12.5, 0.0, 95.0, 3.0]] * 3,
            "isValid": [[True, True, False, True]] * 3,
            "gt_path_smpl": [PATHS] * 3,
            "gt_path_smplx": [PATHS] * 3,
            "age": [["adult"] * 4] * 3,
        }
    )


def tensors(content: dict) -> dict:
    """What the fitting code leaves: parameters that were on a GPU."""
    return {
        name: torch.nn.Parameter(torch.tensor(values, dtype=torch.float32))
        for name, values in content.items()
    }


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(write_bodies(tmp_path_factory.mktemp("bodies")))
    with np.load(folder / "SMPL_NEUTRAL.npz") as body:
        template = 0.5 * body["v_template"] + np.float32([0.1, 0.3, -0.2])
    np.save(folder / "smpl_kid_template.npy", template)
    return folder


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agora")
    (folder / "Cam").mkdir()
    frame().to_pickle(folder / "Cam" / "train_0.pkl")
    (folder / "smpl_gt" / "trainset").mkdir(parents=True)
    with mock.patch("torch.serialization.location_tag", return_value="cuda:0"):
        for name, content in zip(PATHS, FITS, strict=False):
            path = (folder / name).with_suffix(".pkl")
            path.write_bytes(pickle.dumps(tensors(content)))
    for name in (ARCHVIZ, HDRI, BRUSH):
        image = name.replace(".png", "_1280x720.png")
        write_photo(folder / "images" / "train" / image, (720, 1280))
    return folder


def converter(bodies: Path, **changes: object) -> Agora:
    options = {
        "dataframes": "Cam/train*.pkl",
        "fits": ".",
        "images": "images/train",
        "size": (1280, 720),
        "with_kids": True,
        "kid_template": str(bodies / "smpl_kid_template.npy"),
        "body_models": str(bodies),
    }
    return Agora(**{**options, **changes})


@pytest.fixture(scope="module")
def shards(
    download: Path, bodies: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ShardSet, dict]:
    return convert(converter(bodies), download, tmp_path_factory.mktemp("shards"))


def reference(
    person: int, place: list[float], yaw: float, camera: dict, bodies: Path
) -> np.ndarray:
    """Joints (45, 3) before the camera, step by step as AGORA's projection has it, by smplx."""
    is_kid = person == 1
    with np.load(bodies / "SMPL_NEUTRAL.npz") as arrays:
        data = Struct(**arrays)
    body = smplx.SMPL(
        "",
        data_struct=data,
        age="kid" if is_kid else "adult",
        kid_template_path=str(bodies / "smpl_kid_template.npy"),
    )
    names = {"root_pose": "global_orient", "translation": "transl"}
    content = {names.get(k, k): torch.tensor(v).float() for k, v in FITS[person].items()}
    points = body(**content).joints[0].detach().numpy() * [1, -1, -1]
    points = points @ rodrigues(0, yaw - 90).T
    points = points + unreal(place) - (unreal(camera["place"]) - [0, camera.get("raised", 0), 0])
    points = points @ rodrigues(0, -camera["yaw"]).T
    return points @ rodrigues(camera["pitch"], 0).T


def rodrigues(about_x: float, about_y: float) -> np.ndarray:
    return cv2.Rodrigues(np.deg2rad([about_x, about_y, 0.0]))[0]


def unreal(place: list[float]) -> np.ndarray:
    return np.array([place[1], -place[2], place[0]]) / 100


CAMERAS = {
    ARCHVIZ: {"place": [400, 225, 265], "yaw": -135, "pitch": 30, "focal": 18},
    HDRI: {"place": [0, 0, 170], "yaw": 0, "pitch": 0, "focal": 50},
    BRUSH: {"place": [-20, 15, 10], "yaw": 12.5, "pitch": 0, "focal": 28, "raised": 1.7},
}


@pytest.mark.parametrize("name", [ARCHVIZ, HDRI, BRUSH])
def test_bodies_stand_where_agoras_projection_puts_them(
    shards: tuple[ShardSet, dict], bodies: Path, name: str
):
    key = name.replace(".png", "_1280x720")
    sample = next(sample for sample in read_all(shards[0]) if sample["key"] == key)
    row = frame().set_index("imgPath").loc[name]
    focal = CAMERAS[name]["focal"] / 36 * 1280
    np.testing.assert_allclose(
        sample["intrinsics"][0], [[focal, 0, 640], [0, focal, 360], [0, 0, 1]], rtol=1e-6
    )
    assert len(sample["pose"]) == 2
    for person in range(2):
        place = [row[axis][person] for axis in "XYZ"]
        points = reference(person, place, row["Yaw"][person], CAMERAS[name], bodies)
        assert points[:, 2].min() > 0.5
        np.testing.assert_allclose(sample["keypoints_world"][person, SMPL45, :3], points, atol=1e-4)
        pixels = points[:, :2] / points[:, 2:] * focal + [640, 360]
        np.testing.assert_allclose(sample["keypoints_img"][person, SMPL45, :2], pixels, atol=0.1)
    np.testing.assert_allclose(sample["visible_fraction"], [0.875, 1.0])


def test_a_child_has_a_pose_but_no_betas_of_smpl(shards: tuple[ShardSet, dict]):
    for sample in read_all(shards[0]):
        assert sample["has_pose"].tolist() == [True, True]
        assert sample["has_betas"].tolist() == [True, False]
        assert np.isfinite(sample["transl"]).all(axis=1).tolist() == [True, False]
        np.testing.assert_allclose(
            sample["pose"][1, 1:].ravel(), FITS[1]["body_pose"][0], atol=1e-6
        )


def test_who_is_left_out_is_counted(
    shards: tuple[ShardSet, dict], download: Path, bodies: Path, tmp_path: Path
):
    assert shards[1] == {
        "somebody in an image: marked as invalid": 3,
        "somebody in an image: there is no SMPL fit": 3,
    }
    adults = converter(bodies, with_kids=False, kid_template=None)
    made, left_out = convert(adults, download, tmp_path)
    assert left_out["somebody in an image: a child"] == 3
    assert [len(sample["pose"]) for sample in read_all(made)] == [1, 1, 1]


def test_wrong_downloads_and_options_are_answered(download: Path, bodies: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="with_kids=true needs kid_template"):
        converter(bodies, kid_template=None)
    with pytest.raises(FileNotFoundError, match=r"kid_template\.npy is on the download page"):
        converter(bodies, kid_template=str(tmp_path / "no.npy")).open(download)
    with pytest.raises(
        FileNotFoundError, match=r"holds Cam/, images/.*expected Cam/val.*agora\.is"
    ):
        converter(bodies, dataframes="Cam/val*.pkl").open(download)
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "Cam").mkdir()
    frame()[["imgPath", "X"]].to_pickle(tmp_path / "Cam" / "train_0.pkl")
    with pytest.raises(ValueError, match=r"has columns \['imgPath', 'X'\]; expected \['camX'"):
        converter(bodies).open(tmp_path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tables_are_read_as_pandas_reads_them(tmp_path: Path, protocol: int):
    table = frame()
    table["number"], table["is_first"] = [1, 2, 3], [True, False, False]
    table = table[["number", *table.columns[:-2], "is_first"]]
    table.iloc[1:].to_pickle(tmp_path / "t.pkl", protocol=protocol)
    found = read_dataframe(tmp_path / "t.pkl")
    expected = pandas.read_pickle(tmp_path / "t.pkl")
    assert list(found) == list(expected.columns)
    for name, column in found.items():
        np.testing.assert_equal(column, list(expected[name]))


class _Old:
    """Objects of pandas 1.2 and before, pickled with a state."""

    def __init__(self, state: object) -> None:
        self.__dict__["state"] = state

    def __getstate__(self) -> object:
        return self.__dict__["state"]

    def __setstate__(self, state: object) -> None:
        raise AssertionError


def test_tables_of_old_pandas_are_read(tmp_path: Path):
    """BlockManager had a state of axes, blocks, and both again under the key of a version."""
    modules = {
        "pandas.core.frame": ("DataFrame",),
        "pandas.core.internals.managers": ("BlockManager",),
        "pandas.core.indexes.base": ("Index", "_new_Index"),
    }
    fakes = {}
    for name, members in modules.items():
        fakes[name] = types.ModuleType(name)
        for member in members:
            made = type(member, (_Old,), {"__module__": name})
            setattr(fakes[name], member, made)

    def new_index(cls: type, content: dict) -> None:
        raise AssertionError

    new_index.__module__, new_index.__qualname__ = "pandas.core.indexes.base", "_new_Index"
    base = fakes["pandas.core.indexes.base"]
    base._new_Index = new_index

    class Axis:
        def __init__(self, *names: object) -> None:
            self.names = names

        def __reduce__(self) -> tuple:
            data = np.array(self.names, dtype=object)
            return new_index, (base.Index, {"data": data, "name": None})

    lists = np.empty((1, 2), object)
    lists[0] = [[1, 2], [3]]
    blocks = [
        {"values": np.array([[0.5, 1.5], [7.0, 8.0]]), "mgr_locs": np.array([0, 2])},
        {"values": lists, "mgr_locs": slice(1, 2, 1)},
    ]
    axes = [Axis("x", "people", "y"), Axis(0, 1)]
    state = (
        axes,
        [b["values"] for b in blocks],
        axes[:1] * 2,
        {"0.14.1": {"axes": axes, "blocks": blocks}},
    )
    with mock.patch.dict(sys.modules, fakes):
        manager = fakes["pandas.core.internals.managers"].BlockManager(state)
        table = fakes["pandas.core.frame"].DataFrame({"_data": manager, "_typ": "dataframe"})
        (tmp_path / "old.pkl").write_bytes(pickle.dumps(table, 2))
    found = read_dataframe(tmp_path / "old.pkl")
    assert found == {"x": [0.5, 1.5], "people": [[1, 2], [3]], "y": [7.0, 8.0]}


class _Evil:
    def __reduce__(self) -> tuple:
        return eval, ("__import__('os').mkdir('executed')",)


def test_a_table_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame({"a": [_Evil()]}).to_pickle("t.pkl")
    with pytest.raises(ValueError, match=r"builtins\.eval.*pandas\.read_pickle\(p\)\.astype"):
        read_dataframe("t.pkl")
    assert not Path("executed").exists()
    Path("t.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="it holds a list"):
        read_dataframe("t.pkl")
