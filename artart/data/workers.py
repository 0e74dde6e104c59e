"""Ordered work in other processes, which may die."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier, Lock
from types import ModuleType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 16  # items that a process takes at once
MAX_WORKERS = 61  # on Windows, of a ProcessPoolExecutor
MAX_SECONDS = 120  # of processor time that an item may take, where the system can limit it: not on Windows
OUT_OF_TIME = getattr(signal, "SIGPROF", 0)
_exclusive: AbstractContextManager[object] = nullcontext()  # in worker processes: their common lock


def in_workers(
    call: Callable[[Item], Result],
    items: Sequence[Item],
    crashed: Callable[[Item, int], Result],
    num_workers: int | None = None,
) -> Iterator[Result]:
    """Yield call(item) for each item, in order, from new processes, which end with this one, however that ends.

    Args:
        call: must not raise; an item that kills its process is tried again in a separate process.
        crashed: the result for an item that ends that too, and the number of the signal that ended it, such as SIGKILL
            if there is no memory left, and OUT_OF_TIME; 0 or less: none.
        num_workers: None: one per core.
    """
    # of the cores that this process may use: a container may have fewer than the machine
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_workers = min(num_workers or num_cores, MAX_WORKERS if sys.platform == "win32" else sys.maxsize)
    chunks = deque(items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
    while chunks:
        pool = _pool(min(num_workers, len(chunks)))
        running: deque[Future[list[Result]]] = deque()
        try:
            while chunks:
                while len(running) < min(4 * num_workers, len(chunks)):
                    running.append(pool.submit(_each, call, chunks[len(running)]))
                yield from running.popleft().result()
                chunks.popleft()
        except BrokenProcessPool:
            for item in chunks.popleft():
                yield _alone(call, item, crashed)
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C waits for the running items, not for the rest


def _each(call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """call(item) of each; one that takes longer than MAX_SECONDS ends this process: code in C cannot be interrupted."""
    results = []
    for item in items:
        _end_after(MAX_SECONDS)
        results.append(call(item))
    _end_after(0)
    return results


def _end_after(seconds: int) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def exclusive(needed: bool) -> AbstractContextManager[object]:
    """Held, if needed, by one worker process at a time: for work that takes much memory."""
    return _exclusive if needed else nullcontext()


def _alone(call: Callable[[Item], Result], item: Item, crashed: Callable[[Item, int], Result]) -> Result:
    with _pool(1) as pool:
        (process,) = pool._processes.values()
        with suppress(BrokenProcessPool):
            return pool.submit(_each, call, [item]).result()[0]
    return crashed(item, -(process.exitcode or 0))


def _pool(num_workers: int) -> ProcessPoolExecutor:
    """Processes forked from a clean server: this one has threads, so forking it is not safe.

    They would import its main module, which is slow if it imports torch and endless if it has no guard, so that is
    hidden. All are started before any works: one that dies while another starts can hang the pool (Python 3.11).
    """
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(["artart.data.scan"])  # imported once for all
        resource_tracker.ensure_running()  # it unblocks Ctrl-C
    all_started = context.Barrier(num_workers)
    pool = ProcessPoolExecutor(num_workers, context, initializer=_start_worker, initargs=(all_started, context.Lock()))
    main = sys.modules["__main__"]
    try:
        with _ctrl_c_later():
            sys.modules["__main__"] = ModuleType("__main__")
            for _ in range(num_workers):
                pool.submit(int)  # starts a process, as none is idle yet
    except BaseException:
        pool.shutdown()
        raise
    finally:
        sys.modules["__main__"] = main
    return pool


@contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Delay Ctrl-C while processes start: half-started ones would print errors. They inherit the blocked signal."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))  # any thread may receive it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _start_worker(all_started: Barrier, lock: Lock) -> None:
    """Ignore Ctrl-C, which the parent handles, discard what decoders in C print, and end with the parent."""
    global _exclusive
    _exclusive = lock
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    all_started.wait()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
