"""The cores and memory that this process may use: a batch system limits a job's."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

SHARE = "TOD_CORES"
"""The variable with the share of the cores of a process beside others."""


def share_of_cores(processes: int) -> dict[str, str]:
    """The environment of each of several processes that share this one's cores."""
    return {SHARE: str(max(1, own_cores() // processes))}


def own_cores() -> int:
    """The number of cores that this process may use: its share of the job's."""
    share = os.environ.get(SHARE, "")
    return min(cores(), max(1, int(share))) if share.isdecimal() else cores()


def cores(root: Path = Path("/")) -> int:
    """The number of cores that the job may use, by its affinity and its cgroups' quota.

    `root` holds `/proc` and the control groups.
    """
    allowed = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]
    for group in _groups("cpu", root):
        quotas = _read(group / "cpu.cfs_quota_us") + _read(group / "cpu.cfs_period_us")
        for limit in (_read(group / "cpu.max"), quotas):
            with suppress(ValueError, ZeroDivisionError):  # "max": no limit
                quota, period = map(int, limit.split())
                allowed += [max(1, quota // period)] if quota > 0 else []
    return min(count or 1 for count in allowed)


@cache
def memory(root: Path = Path("/")) -> int:
    """The memory that this process may use, in bytes; 16 GB if the system does not say."""
    allowed = [16 * 10**9]
    with suppress(AttributeError, OSError, ValueError):
        allowed = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for group in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(ValueError):  # "max": no limit
                allowed.append(int(_read(group / name)))
    return min(nbytes for nbytes in allowed if nbytes > 0)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups and of their ancestors, which all may limit it.

    A group of version 1 is found by its controller; one of version 2 may have them all. For a group
    outside the part of the tree that a container sees, it is the top of that part.
    """
    mounts = re.findall(
        r"^\S+ \S+ \S+ (\S+) (\S+) .* - (cgroup2?) .*?(\S+)$",
        _read(root / "proc/self/mountinfo"),
        re.MULTILINE,
    )
    groups = re.findall(r"^\d+:(.*?):(.*)$", _read(root / "proc/self/cgroup"), re.MULTILINE)
    for controllers, group in groups:
        for top, place, kind, options in mounts:
            of_version_2 = kind == "cgroup2" and not controllers
            shared = {*controllers.split(",")} & {*options.split(",")}
            if not of_version_2 and (kind != "cgroup" or controller not in shared):
                continue
            path, top = PurePosixPath(group), PurePosixPath(_unescaped(top))
            inside = path.relative_to(top).parts if path.is_relative_to(top) else ("..",)
            for depth in range(len(inside) + 1 if ".." not in inside else 1):
                yield root.joinpath(_unescaped(place).lstrip("/"), *inside[:depth])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _unescaped(path: str) -> str:
    """A path of `/proc/self/mountinfo`, where a blank is `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), path)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the host ran out of memory, for a tensor or within a library."""
    # cuDNN's, where no way to compute a convolution has the memory that it needs, is the last one.
    messages = (
        "out of memory",
        "can't allocate memory",
        "ALLOC_FAILED",
        "unable to find an engine",
    )
    return isinstance(error, MemoryError) or any(m in str(error) for m in messages)
