import io
import logging
import pickle
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import roma
import scipy.sparse
import smplx
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hmrkit.body import joints
from hmrkit.body.files import body_data, read_body_file, smpl_body
from hmrkit.body.smpl import SMPL
from hmrkit.types import Body
from parity import fill

CHUMPY = {
    "chumpy.ch": ("Ch", "MatVecMult"),
    "chumpy.ch_ops": ("add", "dot"),
    "chumpy.reordering": ("Select", "transpose", "Concatenate", "AtleastNd"),
    "scipy.sparse.csc": ("csc_matrix",),
}


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2's ``str``, and numpy's functions where it had them."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, obj: str | bytes) -> None:
        raw = obj.encode("latin1") if isinstance(obj, str) else obj
        if self.proto == 0:
            self.write(b"S" + repr(raw)[1:].encode("ascii") + b"\n")
        elif len(raw) < 256:
            self.write(b"U" + bytes([len(raw)]) + raw)
        else:
            self.write(b"T" + struct.pack("<i", len(raw)) + raw)
        self.memoize(obj)

    dispatch[bytes] = dispatch[str] = save_str

    def save_global(self, obj: object, name: str | None = None) -> None:
        if getattr(obj, "__name__", "") == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch[type(len)] = dispatch[type(fill.smpl)] = dispatch[type] = save_global


def python2_dump(content: object, protocol: int) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol, fix_imports=True).dump(content)
    return out.getvalue()


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """Stand-ins for the classes that old files hold, importable only while a file is written."""
    made = {}
    monkeypatch.setitem(sys.modules, "chumpy", ModuleType("chumpy"))
    for module_name, class_names in CHUMPY.items():
        module = ModuleType(module_name)
        for name in class_names:
            made[name] = type(name, (), {"__module__": module_name})
            setattr(module, name, made[name])
        monkeypatch.setitem(sys.modules, module_name, module)
    return made


def make(cls: type, **state: object) -> object:
    thing = cls()
    thing.__dict__.update(state)
    return thing


def chumpy_content(arrays: dict, foreign: dict[str, type]) -> dict:
    """The layout of the released v1.0 file: variables, a selection, a sparse and a derived one."""
    bookkeeping = {"_dirty_vars": {"x"}, "_itr": None, "_depends_on_deps": False}
    shape = make(foreign["Ch"], x=arrays["shapedirs"].astype(np.float64), **bookkeeping)
    v_template = arrays["v_template"].astype(np.float64)
    flat = make(foreign["Ch"], x=v_template[::-1].copy(), **bookkeeping)
    chosen = np.arange(v_template.size).reshape(-1, 3)[::-1].ravel()
    regressor = scipy.sparse.csc_matrix(arrays["J_regressor"].astype(np.float64))
    sparse = {key: getattr(regressor, key) for key in ("data", "indices", "indptr")}
    content = dict(arrays)
    content |= {
        "v_template": make(
            foreign["Select"], a=flat, idxs=chosen, preferred_shape=v_template.shape
        ),
        "shapedirs": shape,
        "posedirs": arrays["posedirs"].astype(np.float64),
        "J_regressor": make(foreign["csc_matrix"], _shape=(24, 6890), maxprint=50, **sparse),
        "weights": make(
            foreign["add"],
            a=make(foreign["Ch"], x=arrays["weights"].astype(np.float64)),
            b=make(foreign["Ch"], x=np.zeros(1)),
        ),
        "J": make(foreign["dot"], a=shape, b=make(foreign["Concatenate"], things=[shape])),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    return content


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return fill.smpl()


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python2_pickles_with_chumpy_and_scipy_read_bit_equal(
    tmp_path: Path, arrays: dict, foreign: dict, monkeypatch: pytest.MonkeyPatch, protocol: int
):
    small = dict(arrays, posedirs=arrays["posedirs"][:50], shapedirs=arrays["shapedirs"][:500])
    raw = python2_dump(chumpy_content(small, foreign), protocol)
    wanted = [b"chumpy.ch\nCh", b"chumpy.reordering\nSelect", b"scipy.sparse.csc\ncsc_matrix"]
    wanted += [b"numpy.core.multiarray\n_reconstruct", b"__builtin__\nset", b"numpy\ndtype"]
    wanted += [b"copy_reg\n_reconstructor"] if protocol < 2 else []
    assert all(b"c" + name + b"\n" in raw for name in wanted)
    path = tmp_path / "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl"
    path.write_bytes(raw)
    monkeypatch.undo()  # nothing of chumpy is importable any more
    assert "chumpy" not in sys.modules
    found = read_body_file(path)
    assert "chumpy" not in sys.modules
    assert found.keys() == small.keys()
    for key, array in small.items():
        assert np.array_equal(found[key], array), key


def test_python3_pickles_and_npz_read_the_same(tmp_path: Path, arrays: dict):
    sparse = dict(arrays, J_regressor=scipy.sparse.csc_matrix(arrays["J_regressor"]))
    for protocol in (2, 4, 5):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(sparse, protocol))
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez(tmp_path / "objects.npz", **sparse)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    for path in files:
        found = read_body_file(path)
        assert all(np.array_equal(found[key], arrays[key]) for key in arrays), path.name


HOSTILE = {
    "os.system": b"cos\nsystem\n(S'touch PWNED'\ntR.",
    "posix.system": b"cposix\nsystem\n(S'touch PWNED'\ntR.",
    "__builtin__.eval": b'c__builtin__\neval\n(S\'open("PWNED", "w")\'\ntR.',
    "builtins.getattr": b"cbuiltins\ngetattr\n(cnumpy\ndtype\nS'__class__'\ntR.",
    "numpy.load": b"cnumpy\nload\n(S'PWNED'\ntR.",
    "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
    "chumpy.ch.Ch.__init__": b"\x80\x04\x8c\x09chumpy.ch\x8c\x0bCh.__init__\x93.",
    "numpy.dtype.type": b"\x80\x04\x8c\x05numpy\x8c\x0adtype.type\x93.",
    "chumpy.utils.timer": b"cchumpy.utils\ntimer\n(tR.",
    "an object of": b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nobject\nNtR.",
    "encoding 'rot13'": b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.",
    "state for a function": b"c_codecs\nencode\n(N}S'__code__'\nNstb.",
}


@pytest.mark.parametrize("named", HOSTILE)
def test_hostile_pickles_are_refused_by_name_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(HOSTILE[named])
    with pytest.raises(ValueError, match="nothing in it was run") as caught:
        smpl_body(tmp_path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["SMPL_NEUTRAL.pkl"]


def test_hostile_objects_in_an_npz_are_refused(tmp_path: Path, arrays: dict):
    class Hostile:
        def __reduce__(self):
            return eval, ("1 + 1",)

    np.savez(tmp_path / "SMPL_MALE.npz", **dict(arrays, weights=np.array(Hostile(), object)))
    with pytest.raises(ValueError, match=r"builtins\.eval"):
        smpl_body(tmp_path, "male")


@pytest.mark.parametrize("raw", [b"", b"<html>not found</html>", b"Pname\n.", b"\x82\x01.", b"N."])
def test_damaged_files_say_which_file(tmp_path: Path, raw: bytes):
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(raw)
    with pytest.raises(ValueError, match=r"SMPL_NEUTRAL\.pkl"):
        smpl_body(tmp_path)


def test_truncated_and_foreign_content_is_named(tmp_path: Path, arrays: dict, foreign: dict):
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    raw = pickle.dumps(arrays, 2)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="damaged"):
        read_body_file(path)
    path.write_bytes(pickle.dumps({key: arrays[key] for key in ("v_template", "f")}, 2))
    with pytest.raises(ValueError, match=r"'weights'\] missing; it holds f, v_template"):
        read_body_file(path)
    derived = dict(arrays, weights=make(foreign["dot"], a=np.ones(2), b=np.ones(2)))
    path.write_bytes(python2_dump(derived, 2))
    with pytest.raises(ValueError, match=r"weights cannot be read.*chumpy\.ch_ops\.dot"):
        read_body_file(path)
    loop = make(foreign["Ch"])
    loop.x = loop
    path.write_bytes(python2_dump(dict(arrays, weights=loop), 2))
    with pytest.raises(ValueError, match="weights cannot be read"):
        read_body_file(path)


@pytest.mark.parametrize(
    ("name", "gender"),
    [
        ("SMPL_NEUTRAL.pkl", "neutral"),
        ("SMPL_MALE.pkl", "male"),
        ("SMPL_FEMALE.npz", "female"),
        ("basicModel_neutral_lbs_10_207_0_v1.0.0.pkl", "neutral"),
        ("basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl", "neutral"),
        ("basicmodel_m_lbs_10_207_0_v1.0.0.pkl", "male"),
        ("basicModel_f_lbs_10_207_0_v1.0.0.pkl", "female"),
        ("basicmodel_f_lbs_10_207_0_v1.1.0.pkl", "female"),
        ("smpl/SMPL_NEUTRAL.pkl", "neutral"),
    ],
)
def test_files_are_found_by_their_distributed_names(
    tmp_path: Path, arrays: dict, name: str, gender: str
):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("npz"):
        np.savez(path, **arrays)
    else:
        path.write_bytes(pickle.dumps(arrays, 2))
    model = smpl_body(tmp_path, gender)
    assert model.name == f"smpl-{gender}"
    others = {"neutral", "male", "female"} - {gender}
    for other in others:
        with pytest.raises(FileNotFoundError, match=f"no {other} SMPL body"):
            smpl_body(tmp_path, other)


def test_a_missing_body_gets_one_message_with_the_way_out(tmp_path: Path):
    with pytest.raises(FileNotFoundError) as caught:
        smpl_body(tmp_path / "nowhere", "male")
    for part in (str(tmp_path), "SMPL_MALE", "basicmodel_m", "smpl.is.tue.mpg.de", "body=free"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=r"gender='man'.*neutral, male or female"):
        smpl_body(tmp_path, "man")


def test_300_shape_coefficients_are_cut_to_ten(tmp_path: Path, arrays: dict):
    wide = np.concatenate([arrays["shapedirs"], np.ones((6890, 3, 290), np.float32)], axis=2)
    data = body_data("wide", dict(arrays, shapedirs=wide))
    assert np.array_equal(data.shapedirs, arrays["shapedirs"])


def test_other_families_are_refused(arrays: dict):
    with pytest.raises(ValueError, match=r"6890 vertices, 55 joints.*SMPL\+H"):
        body_data("smplx", dict(arrays, weights=np.zeros((6890, 55))))
    turned = arrays["kintree_table"].copy()
    turned[0, 23] = 20
    with pytest.raises(ValueError, match="kinematic tree"):
        body_data("other", dict(arrays, kintree_table=turned))


def test_side_files_are_found_and_used(tmp_path: Path, arrays: dict, caplog):
    (tmp_path / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(arrays, 2))
    with caplog.at_level(logging.WARNING):
        bare = smpl_body(tmp_path)
    missing = ("J_regressor_extra.npy", "J_regressor_h36m.npy", "smpl_mean_params.npz")
    assert all(name in caplog.text for name in missing)
    with pytest.raises(ValueError, match="J_regressor_extra"):
        bare.joints(bare.mean_body(1), "spin49")
    extra = fill.joint_regressor("J_regressor_extra", 9)
    np.save(tmp_path / "J_regressor_extra.npy", extra)
    np.save(tmp_path / "elsewhere.npy", fill.joint_regressor("J_regressor_h36m", 17))
    turned = roma.euler_to_rotmat("x", torch.tensor([3.0])).expand(24, 3, 3)
    pose6d = turned[..., :2].reshape(144).numpy()  # two columns, interleaved
    np.savez(tmp_path / "smpl_mean_params.npz", pose=pose6d, shape=np.full(10, 0.5), cam=np.ones(3))
    model = smpl_body(tmp_path, joint_regressor_h36m=tmp_path / "elsewhere.npy")
    assert model.joints(model.mean_body(1), "all").shape == (1, len(joints.names("all")), 3)
    torch.testing.assert_close(model.mean_pose, turned)
    assert model.mean_betas.tolist() == [0.5] * 10
    with pytest.raises(FileNotFoundError, match=r"gone\.npy.*J_regressor_extra.*body=free"):
        smpl_body(tmp_path, joint_regressor_extra=tmp_path / "gone.npy")
    with pytest.raises(ValueError, match=r"elsewhere\.npy has shape \(17, 6890\) instead of \(9,"):
        smpl_body(tmp_path, joint_regressor_extra=tmp_path / "elsewhere.npy")


def smplh_arrays(arrays: dict) -> dict:
    """A nonsense SMPL+H: 22 body joints, then 15 of each hand."""
    rng = np.random.default_rng(5)
    parents = list(joints.SMPL_PARENTS[:22])
    for wrist in (20, 21):
        for _ in range(5):  # index, middle, pinky, ring, thumb
            first = len(parents)
            parents += [wrist, first, first + 1]
    weights = rng.random((6890, 52)) * (rng.random((6890, 52)) < 0.1) + 1e-3
    regressor = np.abs(rng.random((52, 6890))) * (rng.random((52, 6890)) < 0.01)
    kintree = np.array([parents, range(52)])
    kintree[0, 0] = 2**32 - 1
    return dict(
        arrays,
        weights=weights / weights.sum(1, keepdims=True),
        J_regressor=regressor / regressor.sum(1, keepdims=True),
        posedirs=rng.normal(size=(6890, 3, 459)) * 1e-3,
        kintree_table=kintree.astype(np.uint32),
        hands_componentsl=np.eye(45),
        hands_componentsr=np.eye(45),
        hands_meanl=np.zeros(45),
        hands_meanr=np.zeros(45),
    )


def test_smplh_is_a_24_joint_body_with_flat_hands(tmp_path: Path, arrays: dict):
    content = smplh_arrays(arrays)
    path = tmp_path / "SMPLH_MALE.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    model = smpl_body(tmp_path, "male")
    assert model.name == "smplh-male"
    reference = smplx.SMPLH(str(path), use_pca=False, flat_hand_mean=True, gender="male")
    generator = torch.Generator().manual_seed(0)
    pose = 0.4 * torch.randn(2, 22, 3, generator=generator)
    betas, transl, flat = (
        torch.randn(2, 10, generator=generator),
        torch.ones(2, 3),
        torch.zeros(2, 45),
    )
    expected = reference(
        global_orient=pose[:, 0],
        body_pose=pose[:, 1:].flatten(1),
        left_hand_pose=flat,
        right_hand_pose=flat,
        betas=betas,
        transl=transl,
    )
    rotmat = roma.rotvec_to_rotmat(torch.cat([pose, torch.zeros(2, 2, 3)], dim=1))
    body = Body(rotmat[:, 0], rotmat[:, 1:], betas, transl)
    mesh = model(body)
    torch.testing.assert_close(mesh.vertices, expected.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(mesh.joints[:, :22], expected.joints[:, :22], atol=1e-5, rtol=0)
    knuckles = [parent in (20, 21) for parent in content["kintree_table"][0]]
    left = np.flatnonzero(knuckles)[:4]  # all but the thumb
    middle = expected.joints[:, left].mean(1)
    torch.testing.assert_close(mesh.joints[:, 22], middle, atol=1e-5, rtol=0)


def test_the_hydra_group_builds_both_bodies(tmp_path: Path, arrays: dict):
    group = Path(__file__).parents[1] / "configs_hydra" / "body"
    (tmp_path / "body_models").mkdir()
    (tmp_path / "body_models" / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(arrays, 2))
    config = OmegaConf.create(
        {"paths": {"datasets": str(tmp_path)}, "body": OmegaConf.load(group / "smpl.yaml")}
    )
    assert instantiate(config.body).name == "smpl-neutral"
    assert isinstance(instantiate(OmegaConf.load(group / "free.yaml")), SMPL)
