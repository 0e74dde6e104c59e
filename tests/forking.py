"""Processes for tests, forked from one that has imported what commands need: a new process spends seconds on that.

The one is forked before any test: of a process that has computed gradients, autograd lets no other compute any.
"""

import atexit
import gc
import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from artart.config.cli import compose_config

MAX_SECONDS = 600  # that a process may take
FAILED = 1


class Process:
    """A process, with the methods of one of `subprocess`."""

    def __init__(self, server: Connection, pid: int) -> None:
        self.server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self, options: int = os.WNOHANG) -> int | None:
        if self.returncode is None:
            self.server.send((self.pid, options))
            self.returncode = self.server.recv()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code; `timeout` is that of all."""
        return self.poll(0)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Forking:
    """Forks processes, from one that it forks now."""

    def __init__(self) -> None:
        self.server, other = multiprocessing.Pipe()
        self.pid = os.fork()
        if not self.pid:
            self.server.close()
            atexit._clear()
            gc.freeze()  # else its collections copy what processes share
            try:
                _serve(other)
            except BaseException:  # noqa: BLE001 - nothing may go on in what called
                os._exit(FAILED)
        other.close()

    def start(
        self, function: Callable[..., Any], *arguments: Any, output: Path, folder: Path, **environment: str
    ) -> Process:
        """Call a function of a module in a new process, whose output is appended to a file."""
        self.server.send((function, arguments, output, folder, environment))
        return Process(self.server, self.server.recv())

    def popen(self, call: Sequence[str], env: Mapping[str, str], stdout: Any = None, stderr: Any = None) -> Process:
        """In the place of `subprocess.Popen`, for `python -m NAME WORDS`."""
        _, option, name, *words = call
        assert option == "-m"
        output = Path(stdout.name if stdout else os.devnull)
        return self.start(command, name, *words, output=output, folder=Path.cwd(), **env)

    def close(self) -> None:
        self.server.close()
        os.waitpid(self.pid, 0)


def command(name: str, *words: str) -> None:
    """What `python -m NAME` would do; to be called in a process of its own."""
    sys.argv = [name, *map(str, words)]
    import_module(name).run()


def _serve(client: Connection) -> NoReturn:
    """Start what is asked for, or say how it ended, until nobody is there to ask."""
    while True:
        try:
            request = client.recv()
        except EOFError:
            os._exit(0)
        _warm_up()
        if len(request) == 2:
            pid, status = os.waitpid(*request)
            client.send(os.waitstatus_to_exitcode(status) if pid else None)
        elif pid := os.fork():
            client.send(pid)
        else:
            client.close()
            _call(*request)


@cache
def _warm_up() -> None:
    """What each command would do, once for all."""
    for name in ("torch.utils.tensorboard", "artart.training.stages"):
        import_module(name)
    compose_config("train", ["objective=diffusion", "loss=mse_diffusion"])


def _call(
    function: Callable[..., Any], arguments: Any, output: Path, folder: Path, environment: dict[str, str]
) -> NoReturn:
    """What a new process would do."""
    signal.alarm(MAX_SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.update(environment)
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    logging.getLogger().handlers.clear()
    code: Any = 0
    try:
        function(*arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:  # noqa: BLE001 - as Python does at its end
        traceback.print_exc()
        code = FAILED
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)
