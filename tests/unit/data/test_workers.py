import sys

import pytest

from artart.data import workers


@pytest.mark.parametrize(("platform", "num"), [("win32", 61), ("linux", 99)])
def test_no_more_processes_are_asked_for_than_the_system_takes(platform, num, monkeypatch):
    asked = list[int]()

    def stop(num_workers: int) -> None:
        asked.append(num_workers)
        raise InterruptedError

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(workers, "_pool", stop)
    with pytest.raises(InterruptedError):
        next(workers.in_workers(str, range(5000), str, num_workers=99))
    assert asked == [num]
