"""Annotation pickles and joblib files: read like their own libraries do, and nothing is run."""

import io
import pickle

import joblib
import numpy as np
import pytest
import torch

from hmrkit.data.sources.pickles import read_joblib, read_pickle


def _content() -> dict:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(5, 3))
    return {
        "pose": rng.normal(size=(7, 72)).astype(np.float32),
        "fortran": np.asfortranarray(rng.normal(size=(4, 6))),
        "strided": rng.normal(size=(6, 6))[::2, ::3],
        "big_endian": np.arange(5, dtype=">i4"),
        "empty": np.zeros((0, 3)),
        "scalar_array": np.array(2.5),
        "number": np.float64(1.25),
        "flags": np.array([True, False]),
        "names": np.array(["a.jpg", "bc.jpg"]),
        "objects": np.array(["text", {"inside": np.arange(3)}, None], dtype=object),
        "nested": [{"a": np.ones(2)}, ("x", 3, [None, b"raw"])],
        "shared": [shared, shared],
        "tensor": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
        "text": "é",
    }


def _same(ours: object, theirs: object) -> bool:
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(theirs, torch.Tensor):
        return isinstance(ours, np.ndarray) and np.array_equal(ours, theirs.numpy())
    if isinstance(theirs, np.ndarray) and theirs.dtype == object:
        return ours.dtype == object and all(map(_same, ours, theirs))
    if isinstance(theirs, np.ndarray):
        return type(ours) is np.ndarray and ours.dtype == theirs.dtype and (ours == theirs).all()
    return type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("compress", [0, 3, "gzip", "bz2", "xz", "lzma"])
@pytest.mark.parametrize("protocol", [None, 2, 0])
def test_joblib_files_are_read_as_joblib_reads_them(tmp_path, compress, protocol):
    path = tmp_path / "db.pt"
    joblib.dump(_content(), path, compress=compress, protocol=protocol)
    assert _same(read_joblib(path), joblib.load(path))


def test_joblib_files_of_old_versions_without_padding_are_read(tmp_path):
    content = [np.arange(3.0), {"b": np.ones((2, 2), np.float32)}]
    path = tmp_path / "old.pkl"

    class Unseekable(io.BytesIO):  # joblib then writes what versions before 1.2 wrote
        def tell(self) -> int:
            raise io.UnsupportedOperation

    file = Unseekable()
    joblib.dump(content, file)
    path.write_bytes(file.getvalue())
    assert b"alignment_bytes" in file.getvalue()
    assert _same(read_joblib(path), content)


def test_a_subclass_of_array_is_read_as_a_plain_array(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6.0))
    matrix = np.zeros((1, 2)).view(np.matrix)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    joblib.dump([mapped, matrix], tmp_path / "db.pkl")
    assert _same(read_joblib(tmp_path / "db.pkl"), [np.arange(6.0), np.zeros((1, 2))])


def test_a_plain_pickle_is_read_by_both_readers(tmp_path):
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(_content()))
    wanted = pickle.loads(path.read_bytes())
    assert _same(read_joblib(path), wanted)
    assert _same(read_pickle(path), wanted)


class _Hostile:
    def __reduce__(self) -> tuple:
        return (open, ("run", "w"))


@pytest.mark.parametrize("compress", [0, 3])
@pytest.mark.parametrize("place", ["outside", "inside an array"])
def test_joblib_files_that_hold_code_are_refused_and_not_run(
    tmp_path, monkeypatch, compress, place
):
    monkeypatch.chdir(tmp_path)
    content = _Hostile() if place == "outside" else np.array([_Hostile()], dtype=object)
    joblib.dump({"a": np.ones(3), "b": content}, tmp_path / "db.pt", compress=compress)
    with pytest.raises(ValueError, match=r"db\.pt is refused, nothing in it was run: .*io\.open"):
        read_joblib(tmp_path / "db.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("compress", [0, 3])
def test_damaged_joblib_files_are_named(tmp_path, compress):
    path = tmp_path / "db.pt"
    joblib.dump({"a": np.arange(1000.0)}, path, compress=compress)
    whole = path.read_bytes()
    for length in (0, 1, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"db\.pt is damaged"):
            read_joblib(path)
