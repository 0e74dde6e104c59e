"""How much memory there is, and how much is free."""

from contextlib import suppress
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of a container or a batch job


def available(device: torch.device) -> int | None:
    """Bytes that this process can still take on a device; None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError, ValueError, IndexError):
        free = _meminfo("MemAvailable")
        with suppress(OSError, ValueError):  # "max" where there is no limit
            limit, used = (int((CGROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
            stat = (CGROUP / "memory.stat").read_text(encoding="ascii")
            cached = int(stat.partition("\ninactive_file ")[2].split()[0])
            free = min(free, limit - used + cached)
        return free
    return None


def total(device: torch.device) -> int | None:
    """Bytes of memory that a device has for this process; None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    with suppress(OSError, ValueError, IndexError):
        size = _meminfo("MemTotal")
        with suppress(OSError, ValueError):  # "max" where there is no limit
            size = min(size, int((CGROUP / "memory.max").read_text(encoding="ascii")))
        return size
    return None


def _meminfo(name: str) -> int:
    return 1024 * int(MEMINFO.read_text(encoding="ascii").partition(f"{name}:")[2].split()[0])
