"""The programs as people start them, without importing PyTorch and Lightning anew each time.

Each runs in a process of its own, forked by multiprocessing's server, which has done nothing but
import what they share. There it is run as ``python -m hmrkit.<name> ...`` runs it, with its own
folder, environment, output, signals and exit code. ``fresh=True`` starts a new Python instead: for
tests of the imports, and of joblib, whose processes wait for ever below such a server's.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SHARED = ["hmrkit.runs", "hmrkit.infer.run", "hmrkit.data.synth.shards", "torch.utils.tensorboard"]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(SHARED)


class Running:
    """A program that runs, with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, name: str, arguments: tuple[str, ...], cwd: Path, **variables: str):
        self.folder = tempfile.TemporaryDirectory()
        self.output = [Path(self.folder.name, kind) for kind in ("stdout", "stderr")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        given = ([f"hmrkit.{name}", *arguments], str(cwd), environment, self.output)
        self.process = _SERVER.Process(target=_become, args=given)
        self.process.start()

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit code; a program that takes longer is killed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(f"process {self.process.pid}", timeout)
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """To this process alone."""
        os.kill(self.process.pid, number)

    def read(self) -> list[str]:
        """What it has written to stdout and stderr."""
        return [path.read_text() for path in self.output]


def start(name: str, *arguments: str, cwd: Path, **variables: str) -> Running:
    """Start ``python -m hmrkit.<name> ...`` in a folder."""
    return Running(name, arguments, cwd, **variables)


def run(
    name: str,
    *arguments: str,
    cwd: Path,
    timeout: float = 240,
    fresh: bool = False,
    **variables: str,
) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m hmrkit.<name> ...`` in a folder to its end."""
    if fresh:
        return subprocess.run(
            [sys.executable, "-m", f"hmrkit.{name}", *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    running = start(name, *arguments, cwd=cwd, **variables)
    code = running.wait(timeout)
    return subprocess.CompletedProcess([name, *arguments], code, *running.read())


def run_two(
    name: str, *arguments: str, cwd: Path, timeout: float = 240, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a program as the two processes of one run, started as torchrun or a cluster does.

    One that starts its second process itself (``trainer.devices=2`` alone) waits for a new Python.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    variables |= {**meeting, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    both = [start(name, *arguments, cwd=cwd, LOCAL_RANK=str(i), **variables) for i in range(2)]
    codes = [running.wait(timeout) for running in both]
    output = ["\n".join(texts) for texts in zip(*(running.read() for running in both), strict=True)]
    return subprocess.CompletedProcess([name, *arguments], max(codes, key=abs), *output)


def _become(
    arguments: list[str], cwd: str, environment: dict[str, str], output: list[Path]
) -> None:
    """Be the program, in the process that was forked for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without
    for number, path in enumerate([Path(os.devnull), *output]):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [cwd, *(path for path in paths if path)]
    sys.argv = arguments
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # read when it was imported
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
