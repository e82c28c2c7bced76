"""Pickles made to corrupt memory, and damaged ones, are refused: read in a process of its own."""

import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np

from hmrkit.data.sources.pickles import read_joblib, read_pickle

READ = """
import sys
from hmrkit.data.sources.pickles import read_joblib, read_pickle
for path in sys.argv[1:]:
    for read in (read_pickle, read_joblib):
        try:
            print(path, repr(read(path)))
        except ValueError as error:
            print(path, "ValueError", error)
"""

DAMAGE = """
import random, resource, sys
from pathlib import Path
from hmrkit.data.sources.pickles import read_joblib, read_pickle
resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))  # what a damaged length may ask for
path, rng, failed = Path(sys.argv[1]), random.Random(0), 0
whole = path.read_bytes()
places = [i for i in range(len(whole)) if whole[i]]  # the arrays are all zeros
damaged = path.with_name("damaged.pkl")
for read in (read_pickle, read_joblib):
    for _ in range(400):
        content = bytearray(whole)
        content[rng.choice(places)] = rng.randrange(256)
        damaged.write_bytes(content)
        try:
            repr(read(damaged))
        except ValueError as error:
            assert str(damaged) in str(error), error
            failed += 1
print(failed)
"""


class _Call:
    """Is pickled as a call with a state."""

    def __init__(self, function: object, *args: object, state: object = None) -> None:
        self.parts = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple:
        return self.parts


def _dtype(text: str = "O8") -> _Call:
    """A type of objects that says it has none."""
    return _Call(np.dtype, text, False, True, state=(3, "|", None, None, None, -1, -1, 0))


POINTER = b"\x41" * 6 + b"\0\0"
_FROM_BUFFER = np.arange(3.0).__reduce_ex__(5)[0]
_RECONSTRUCT, _RECONSTRUCT_ARGS, _ = np.arange(3.0).__reduce__()
_SCALAR = np.float64(1).__reduce__()[0]
_FIELDS = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
HOSTILE = {
    "buffer": _Call(_FROM_BUFFER, POINTER, _dtype(), (1,), "C"),
    "scalar": _Call(_SCALAR, _dtype(), POINTER),
    "state": _Call(_RECONSTRUCT, *_RECONSTRUCT_ARGS, state=(1, (1,), _dtype(), False, POINTER)),
    "list of another length": _Call(
        _RECONSTRUCT, *_RECONSTRUCT_ARGS, state=(1, (9,), _dtype(), False, [None])
    ),
    "numbers of another length": _Call(
        _RECONSTRUCT, *_RECONSTRUCT_ARGS, state=(1, (1 << 40,), np.dtype("f8"), False, POINTER)
    ),
    "negative shape": _Call(_FROM_BUFFER, POINTER, np.dtype("f8"), (-1,), "C"),
    "fields of objects": _Call(
        _FROM_BUFFER, POINTER, _Call(np.dtype, "V8", state=_FIELDS), (1,), "C"
    ),
    "state of an array that is made": _Call(
        _FROM_BUFFER, bytes(8), np.dtype("f8"), (1,), "C", state=(1, (1,), _dtype(), False, POINTER)
    ),
}


def _run(script: str, *paths: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return done.stdout


def test_bytes_of_a_pickle_do_not_become_pointers(tmp_path):
    paths = [tmp_path / f"{name}.pkl" for name in HOSTILE]
    for path, content in zip(paths, HOSTILE.values(), strict=True):
        path.write_bytes(pickle.dumps({"a": content}, protocol=2))
    joblib.dump({"a": np.frombuffer(POINTER * 4, "u1")}, tmp_path / "joblib.pkl")
    content = (tmp_path / "joblib.pkl").read_bytes()
    assert b"\x8c\x02u1" in content
    (tmp_path / "joblib.pkl").write_bytes(content.replace(b"\x8c\x02u1", b"\x8c\x02O8"))
    paths.append(tmp_path / "joblib.pkl")
    lines = _run(READ, *paths).splitlines()
    for path, line in zip(np.repeat(paths, 2), lines, strict=True):
        assert line.startswith(f"{path} ValueError {path} is "), line


def test_a_damaged_byte_ends_in_an_error_that_names_the_file(tmp_path):
    content = {
        "poses": [np.zeros((20, 72))],
        "names": np.array(["a", "b"]),
        "objects": np.array([{"x": np.zeros(2)}, None], dtype=object),
        "number": np.float32(3),
        "gender": ["m"],
    }
    path = tmp_path / "whole.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert int(_run(DAMAGE, path)) > 100


def test_shared_and_nested_arrays_are_plain_and_stay_shared(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    both = (array, [array], {"a": (array,)})
    content = {"x": both, "y": np.array([array, both, None], dtype=object), "z": both}
    content["self"] = content
    path = tmp_path / "shared.pkl"
    for protocol in (2, 5):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        for read in (read_pickle, read_joblib):
            found = read(path)
            assert found["self"] is found
            assert found["x"] is found["z"] is found["y"][1]
            one = found["x"][0]
            assert type(one) is type(found["y"]) is np.ndarray
            assert one is found["x"][1][0] is found["x"][2]["a"][0] is found["y"][0]
            np.testing.assert_array_equal(one, array)


def test_an_array_whose_axes_are_in_another_order_is_read(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    path = tmp_path / "axes.pkl"
    path.write_bytes(pickle.dumps(array, protocol=5))
    np.testing.assert_array_equal(read_pickle(path), array)
