"""The programs as people start them, without importing PyTorch and Lightning anew each time.

Each runs in a process of its own, forked from one (``serve``) that has done nothing but import what
they share. There it is run as ``python -m hmrkit.<name> ...`` runs it, with its own folder,
environment, output, signals and exit code. ``fresh=True`` starts a new Python instead.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

SHARED = ("hmrkit.runs", "hmrkit.infer.run", "hmrkit.data.synth.shards", "torch.utils.tensorboard")


class Running:
    """A program that runs, with the part of ``subprocess.Popen`` that tests need."""

    def __init__(self, name: str, arguments: tuple[str, ...], cwd: Path, **variables: str):
        self.folder = tempfile.TemporaryDirectory()
        self.output = [Path(self.folder.name, kind) for kind in ("stdout", "stderr")]
        self.returncode: int | None = None
        self.pid = _ask(
            arguments=[f"hmrkit.{name}", *arguments],
            cwd=str(cwd),
            environment={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            output=[str(path) for path in self.output],
        )

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None:
            self.returncode = _ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit code; a program that takes longer is killed."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """To this process alone."""
        os.kill(self.pid, number)

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


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """One per test process; it ends when its input does."""
    return subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(**request: object) -> int | None:
    server = _server()
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def serve() -> None:
    """Fork a process per request for a program; tell the exit codes of those that ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    for module in SHARED:
        importlib.import_module(module)
    gc.freeze()  # else the first collection of each process copies all that they share
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                become(**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def become(arguments: list[str], cwd: str, environment: dict[str, str], output: list[str]) -> None:
    """Be the program, in the process that was forked for it, to its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate([os.devnull, *output]):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [cwd, *(path for path in paths if path)]
    sys.argv = arguments
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        is_text = isinstance(end.code, str)
        if is_text:
            sys.stderr.write(f"{end.code}\n")
        code = 1 if is_text else end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking the modules apart would copy them first


if __name__ == "__main__":
    serve()
