"""The rules of the house (CONTRIBUTING.md) as assertions over the syntax trees."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "hmrkit"
FILES = sorted(SRC.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

# what may import what: a package imports from lower ranks, and from its own
RANKS = {
    "types": 0,
    "keys": 0,
    "weight_files": 0,
    "geometry": 1,
    "body": 2,
    "layers": 3,
    "losses": 3,
    "metrics": 3,
    "motion_metrics": 3,
    "row_columns": 3,
    "render": 3,
    "data": 4,
    "adapt": 5,
    "evaluation": 5,
    "scene_evaluation": 6,
    "submission": 7,
    "graph": 7,
    "gendered_evaluation": 6,
    "keypoint_evaluation": 6,
    "keypoint_ap": 7,
    "spin_evaluation": 6,
    "module": 6,
    "models": 7,
    "checkpoints": 8,
    "initial_weights": 9,
    "reporting": 8,
    "report": 9,
    "scoring": 10,
    "inspection": 9,
    "infer": 10,
    "runs": 11,
    "api": 11,
    "diagnosis": 11,
    "web": 12,
}
ENTRY_POINTS = {
    "train",
    "eval",
    "demo",
    "synth",
    "prepare",
    "inspect",
    "convert",
    "doctor",
    "export",
    "app",
    "compare",
}
FREE = {"configs", "__init__", "__version__"}  # no rank: these import nothing of ours


def package_of(path: Path) -> str:
    relative = path.relative_to(SRC)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hmrkit"):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("hmrkit.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path: Path):
    package = package_of(path)
    if package in ENTRY_POINTS | FREE:
        return
    for name in imports(TREES[path]):
        target = name.split(".")[1]
        if target in FREE | {package}:
            continue
        assert target in RANKS, f"{path} imports {name}, which has no rank in this test"
        assert RANKS[target] < RANKS[package], f"{path} imports {name}"


def test_methods_never_import_each_other():
    for path in (SRC / "models").rglob("*.py"):
        own = path.relative_to(SRC / "models").parts[0]
        for name in imports(TREES[path]):
            if name.startswith("hmrkit.models."):
                assert name.split(".")[2] == own, f"{path} imports {name}"


def test_no_module_imports_itself_in_a_circle():
    modules = {str(p.relative_to(SRC.parent).with_suffix("")).replace("/", "."): p for p in FILES}
    graph = {}
    for name, path in modules.items():
        top_level = [n for n in TREES[path].body if isinstance(n, ast.Import | ast.ImportFrom)]
        targets = imports(ast.Module(body=top_level, type_ignores=[]))
        graph[name] = {t for n in targets for t in (n, n.rpartition(".")[0]) if t in modules}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for target in graph[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_files_and_functions_stay_short(path: Path):
    assert len(path.read_text().splitlines()) <= 400
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node):
                length -= node.body[0].end_lineno - node.body[0].lineno + 1
            limit = 30 if node.name == "forward" else 60
            assert length <= limit, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_package_files_hold_a_docstring_only():
    for path in FILES:
        if path.name == "__init__.py":
            body = TREES[path].body
            allowed = 2 if path.parent == SRC else 1  # the version
            assert ast.get_docstring(TREES[path]), path
            assert len(body) <= allowed, path


def test_no_forbidden_module_names():
    forbidden = {"utils", "misc", "common", "helpers", "constants", "util", "helper"}
    assert not [p for p in FILES if p.stem in forbidden or forbidden & set(p.parts)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_forbidden_habits(path: Path):
    text = path.read_text()
    for pattern in (
        r"\bsys\.path\b",
        r"^\s*print\(",
        r"\.cuda\(",
        r"^\s*if (True|False)\b",
        r"^import argparse|^from argparse",
        r"rot6d_to_rotmat\b",
        r"(?<![\w.])/(home|root|tmp|mnt|opt|var)/",
        r"allow_pickle=True",
    ):
        assert not re.search(pattern, text, re.MULTILINE), f"{path}: {pattern}"
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno} bare except"
            is_pass = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not is_pass, f"{path}:{node.lineno} swallows an error"
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            assert node.args.kwarg is None, f"{path}:{node.lineno} **kwargs in a constructor"


def test_directions_are_named_when_order_matters():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr in {"cross", "softmax"}:
                owner = ast.unparse(node.func.value)
                names = {k.arg for k in node.keywords}
                if owner in {"torch", "torch.linalg", "F", "functional"}:
                    assert "dim" in names, f"{path}:{node.lineno} {node.func.attr} without dim"


def test_importing_hmrkit_is_cheap_and_touches_nothing(tmp_path: Path):
    code = (
        "import sys, hmrkit, hmrkit.train, hmrkit.eval, hmrkit.demo, hmrkit.synth, hmrkit.prepare, "
        "hmrkit.inspect, hmrkit.doctor, hmrkit.export, hmrkit.app, hmrkit.compare;"
        "heavy = {'torch', 'pytorch_lightning', 'smplx', 'pyrender', 'timm', 'torchvision', 'cv2'};"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
