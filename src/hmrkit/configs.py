"""Find and compose the configuration tree; turn a wrong override into one clear message."""

import difflib
import functools
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def config_dir() -> str:
    """The path of ``configs_hydra``: beside this file in a wheel, two levels up in a clone.

    Raises:
        FileNotFoundError: when neither place holds ``train.yaml``.
    """
    here = Path(__file__).resolve().parent
    candidates = [here / "configs_hydra", here.parents[1] / "configs_hydra"]
    for folder in candidates:
        if (folder / "train.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(
        f"hmrkit's configuration files are missing: looked in {candidates[0]} and {candidates[1]}; "
        "reinstall hmrkit"
    )


def load_config(name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``<name>.yaml`` with command-line overrides; for tests, notebooks and scripts."""
    if GlobalHydra.instance().is_initialized():  # in a running program
        return hydra.compose(name, overrides=list(overrides))
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain dicts and lists, the only form that goes into a checkpoint."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def merge(config: Mapping[str, Any], *changes: Any) -> dict[str, Any]:
    """A plain config with others' values over its own, node by node."""
    merged = OmegaConf.to_container(OmegaConf.merge(config, *changes), resolve=True)
    assert isinstance(merged, dict)
    return merged  # type: ignore[return-value]


def cut_node(data: Mapping[str, Any], *purposes: str) -> dict[str, Any]:
    """The cut of a ``data`` node, changed for each purpose in turn, "eval" or "demo"."""
    return merge(data["cut"], *(data.get(f"{purpose}_cut") or {} for purpose in purposes))


def command_line(program: str, values: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    """A command for the shell, ``python -m hmrkit.<program> key=value ...``.

    Args:
        program: its name.
        values: plain values by key.
        overrides: more, in Hydra's grammar.
    """
    return shlex.join(["python", "-m", f"hmrkit.{program}", *as_overrides(values), *overrides])


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Plain values by key as arguments of a program, in Hydra's grammar."""
    return [f"{key}={_literal(value)}" for key, value in values.items()]


def _literal(value: Any) -> str:
    """A plain value in Hydra's grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_literal, value)) + "]"
    if not isinstance(value, str):
        return repr(value)
    is_bare = re.fullmatch(r"[A-Za-z_./][\w./:@%+-]*", value) or (
        re.fullmatch(r"[0-9][A-Za-z0-9_]*", value)  # 3dpw, but not 3, 1_000 or 1e5
        and not re.fullmatch(r"[0-9_]+([eE][0-9_]+)?", value)
    )
    if is_bare and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)  # \ is special before a quote only
    num_last = len(value) - len(value.rstrip("\\"))
    return '"' + escaped + "\\" * num_last + '"'


def run(name: str, task: Callable[[DictConfig], Any]) -> Any:
    """Run ``task`` as a Hydra program: compose, check the overrides, then call.

    User errors (``ValueError``, ``OSError``) end the program with their message alone and exit code
    2; ``HYDRA_FULL_ERROR=1`` shows the traceback as well.
    """
    has_flags = any(argument.startswith("-") for argument in sys.argv[1:])
    is_plain = not has_flags and not any("hydra.searchpath" in a for a in sys.argv[1:])
    if is_plain:  # sweeps, --help and other folders of configs: only Hydra knows how they compose
        problem = _override_problem(name, sys.argv[1:])
        if problem:
            _stop(problem)

    @functools.wraps(task)
    def guarded(config: DictConfig) -> Any:
        try:
            return task(config)
        except Exception as error:
            if isinstance(error, InstantiationException):  # Hydra wraps what a constructor raises
                cause = error.__cause__
                error = cause if isinstance(cause, ValueError | OSError) else error
            if not _is_for_users(error):
                raise
            is_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            if is_sweep or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            _stop(f"{error}\n(HYDRA_FULL_ERROR=1 shows where)")

    return hydra.main(version_base="1.3", config_path=config_dir(), config_name=name)(guarded)()


class TidySweep(Callback):
    """Removes what Hydra leaves behind a sweep whose jobs write elsewhere (``hydra.callbacks``)."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Remove the copy of the config, and the folder unless a launcher's logs are in it."""
        folder = Path(config.hydra.sweep.dir)
        (folder / "multirun.yaml").unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _is_for_users(error: BaseException) -> bool:
    """Errors whose message says all; Lightning's by name, importing it here would take seconds."""
    is_ours = isinstance(error, ValueError | OSError | InstantiationException)
    return is_ours or type(error).__name__ == "MisconfigurationException"


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"hmrkit: {message}\n")
    raise SystemExit(2)


def _override_problem(name: str, overrides: list[str]) -> str | None:
    """One sentence about the first override that cannot work, or None."""
    known = None
    try:
        defaults = load_config(name, [o for o in overrides if not _is_value(o)])
        known = _keys(defaults)
        config = load_config(name, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return _explain(str(error), overrides, known)
    for key in config:
        if OmegaConf.is_missing(config, key):
            return f"{key} is not set: give {key}=..."
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        default = OmegaConf.select(defaults, key, default=None, throw_on_missing=False)
        value = OmegaConf.select(config, key, default=None, throw_on_missing=False)
        wrong = isinstance(value, str) and isinstance(default, int | float)
        if wrong and value != "auto":
            return f"{key}={value}: expected a {type(default).__name__} such as {default!r}"
    return None


def _is_value(override: str) -> bool:
    """Whether ``a.b=c`` sets a value below an option rather than choosing an option of a group."""
    key = override.split("=", 1)[0].lstrip("+~")
    group = key.split("@")[0]
    return not (Path(config_dir()) / group).is_dir()


def _explain(message: str, overrides: list[str], known: list[str] | None) -> str:
    """The nearest key where one is unknown, else the first lines of Hydra's own message."""
    for override in overrides if known is not None else []:
        key = override.split("=", 1)[0]
        if _is_value(override) and not key.startswith(("+", "~")) and key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "see the keys with --cfg job"
            return f"unknown option {key!r}: {hint}"
    message = message.split("Config search path")[0]
    message = re.sub(r":\n\t", ": ", message).replace("\n\t", ", ")  # the options of a group
    return "\n".join([line for line in message.splitlines() if line.strip()][:12])


def _keys(config: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a config, inner nodes included."""
    keys: list[str] = []
    if isinstance(config, DictConfig):
        for key in config:
            full = f"{prefix}{key}"
            child = config._get_node(key)
            keys += [full, *_keys(child, f"{full}.")]
    return keys
