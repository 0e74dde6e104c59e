"""Training in several processes, which torchrun starts; `trainer.devices=N` calls it."""

import atexit
import logging
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import rich

from artart import ArtError
from artart.config.build import in_sweep, is_command

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # while rank zero reads a new folder of images
OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
OTHER_LAUNCHERS = {"SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}
BY_TORCHRUN = "start one process, or several by torchrun (docs/scaling.md)"

_patient: list[Any] = []  # the group of all processes that has this timeout


def rank() -> int:
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def launch(trainer: MutableMapping[str, Any]) -> None:
    """Determine the number of processes and start them if they are not running; that call does not return.

    `devices` and `num_nodes` of the Trainer's settings become numbers.

    Raises ArtError if the settings contradict each other or the number of processes that torchrun has started.
    """
    _check_launcher()
    given = trainer["devices"]
    if started := "LOCAL_RANK" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        if given not in ("auto", here) and trainer["strategy"] != "auto":
            raise ArtError(f"trainer.devices={given}: torchrun has started {here} processes here; leave it out")
        trainer["devices"], trainer["num_nodes"] = here, world_size() // here
    elif trainer["num_nodes"] > 1:
        raise ArtError(
            f"trainer.num_nodes={trainer['num_nodes']}: leave it out and call torchrun --nnodes={trainer['num_nodes']} "
            "on each machine (docs/scaling.md)"
        )
    elif given == "auto":
        import torch

        may_use_gpus = trainer["accelerator"] in ("auto", "gpu", "cuda")
        trainer["devices"] = max(1, torch.cuda.device_count()) if may_use_gpus else 1
    number = trainer["devices"] * trainer["num_nodes"]
    if number == 1:
        return
    if trainer["strategy"] == "auto":
        raise ArtError(f"trainer.strategy=auto: {number} processes need trainer=ddp")
    if in_sweep():
        raise ArtError(f"trainer.devices={given}: each job of a sweep has one process; give it a command of its own")
    if not started:
        if not is_command():
            raise ArtError(
                f"trainer.devices={given}: a call from Python trains in one process; use python -m artart.train"
            )
        sys.exit(_start(number))


def _check_launcher() -> None:
    """Raises ArtError if something but torchrun has started several processes, each of which would train by itself."""
    if "LOCAL_RANK" in os.environ:
        if missing := [name for name in OF_TORCHRUN if not os.environ.get(name, "").isdecimal()]:
            raise ArtError(f"LOCAL_RANK={os.environ['LOCAL_RANK']}: set without a number {missing[0]}; {BY_TORCHRUN}")
        return
    for name, launcher in OTHER_LAUNCHERS.items():
        if (number := os.environ.get(name, "1")) != "1":
            raise ArtError(f"{name}={number}: {launcher} has started {number} processes; {BY_TORCHRUN}")


def _start(number: int) -> int:
    """Run this command in several processes; return the exit code of the first that failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes report their own errors
    try:
        main(["--standalone", f"--nproc-per-node={number}", "-m", "artart.train", *sys.argv[1:]])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as stop:
        return 128 + stop.sigval
    return 0


def init_process_group(trainer: MutableMapping[str, Any]) -> None:
    """Connect to the other processes; from here on only rank zero prints, except for errors."""
    if world_size() == 1 or _patient:
        return
    import torch
    from torch import distributed

    if rank():
        rich.reconfigure(quiet=True)
    on_gpu = trainer["accelerator"] != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    atexit.register(_disconnect)
    _patient.append(distributed.new_group(backend="gloo", timeout=PATIENCE))


def _disconnect() -> None:
    """Disconnect before the interpreter ends, so that gloo's threads can end."""
    from torch import distributed

    _patient.clear()
    distributed.destroy_process_group()


def broadcast_from_rank_zero(make: Callable[[], T]) -> T:
    """Call `make` in rank zero and return its result in all processes; exit if another process has failed."""
    if world_size() == 1:
        return make()
    from torch import distributed

    made: list[Any] = [None if rank() else make()]
    try:
        distributed.broadcast_object_list(made, group=_patient[0])
    except RuntimeError:  # of gloo: the connection to a process is closed, which has reported why
        sys.exit(1)
    return made[0]


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank zero runs the block first, then all others at once."""
    if rank():
        broadcast_from_rank_zero(lambda: None)  # returns when rank zero is done
    yield
    if not rank():
        broadcast_from_rank_zero(lambda: None)
