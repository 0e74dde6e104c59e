"""The processes of a sweep."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from artart.training import sweep_folder

Processes = Callable[..., list[str]]


@pytest.fixture
def processes(monkeypatch) -> Processes:
    """`processes(0, 9)`: what is called of those that run_workers starts next, which end with these codes."""

    def processes(*codes: int | BaseException) -> list[str]:
        left, calls = iter(codes), list[str]()

        def popen(*_, **__) -> SimpleNamespace:
            code = next(left)

            def wait() -> int:
                calls.append("wait")
                if isinstance(code, BaseException) and "terminate" not in calls:
                    raise code
                return code

            return SimpleNamespace(wait=wait, terminate=lambda: calls.append("terminate"))

        monkeypatch.setattr(sweep_folder, "subprocess", SimpleNamespace(Popen=popen))
        return calls

    return processes


def test_a_sweep_that_is_stopped_stops_its_processes_at_once(processes, tmp_path):
    calls = processes(KeyboardInterrupt(), 0, 0)
    with pytest.raises(KeyboardInterrupt):
        sweep_folder.run_workers(3, tmp_path)
    assert calls == ["wait", *["terminate"] * 3, *["wait"] * 3]


@pytest.mark.parametrize(("codes", "is_whole"), [((0, 0), True), ((-9, 0), False), ((0, 1), False)])
def test_run_workers_tells_whether_one_was_killed(processes, tmp_path, codes, is_whole):
    processes(*codes)
    assert sweep_folder.run_workers(2, tmp_path) is is_whole
