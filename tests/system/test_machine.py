"""What a job may have: made-up `/proc` and control groups, as batch systems lay them out."""

import os
from pathlib import Path

import pytest

from tod.system import machine

GB = 10**9
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
STEP = "slurm/uid_1/job_7/step_0"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 64 * 10**6}.get(name, 1000))
    machine.memory.cache_clear()


def laid_out(root: Path, mounts: str, groups: str, limits: str) -> Path:
    """A system with these limits: the files below `/sys/fs/cgroup` that hold them, FILE=LIMIT."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("23 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    (root / "proc/self/cgroup").write_text(groups)
    for each in limits.split("; ") if limits else []:
        name, _, limit = each.partition("=")
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n".replace("G", "0" * 9))
    return root


SYSTEMS = {
    "a systemd slice": (
        V2,
        "0::/user.slice/run-1.scope\n",
        "user.slice/memory.max=2G; user.slice/cpu.max=400000 100000; "
        "user.slice/run-1.scope/memory.max=max; user.slice/run-1.scope/cpu.max=max 100000",
        (4, 2 * GB),
    ),
    "a step of a job, whose own limit is the smallest": (
        V2,
        f"0::/{STEP}\n",
        "slurm/uid_1/job_7/memory.max=8G; slurm/uid_1/job_7/cpu.max=800000 100000; "
        f"{STEP}/memory.max=3G; {STEP}/cpu.max=250000 100000",
        (2, 3 * GB),
    ),
    "version 1 of a job": (
        V1,
        f"4:memory:/{STEP}\n3:cpuacct,cpu:/{STEP}\n1:name=systemd:/\n",
        "memory/memory.limit_in_bytes=9223372036854771712; "
        "memory/slurm/uid_1/job_7/memory.limit_in_bytes=5G; "
        f"memory/{STEP}/memory.limit_in_bytes=6G; "
        f"cpu,cpuacct/{STEP}/cpu.cfs_quota_us=300000; "
        f"cpu,cpuacct/{STEP}/cpu.cfs_period_us=100000; "
        "cpu,cpuacct/slurm/cpu.cfs_quota_us=-1; cpu,cpuacct/slurm/cpu.cfs_period_us=100000",
        (3, 5 * GB),
    ),
    "both versions at once": (
        V1 + V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified"),
        "4:memory:/a\n3:cpu,cpuacct:/\n0::/b\n",
        "memory/a/memory.limit_in_bytes=7G; unified/b/cpu.max=200000 100000; "
        "memory/b/memory.limit_in_bytes=1",
        (2, 7 * GB),
    ),
    "a container that sees its own part as all there is": (
        V2,
        "0::/\n",
        "memory.max=4G; cpu.max=50000 100000",
        (1, 4 * GB),
    ),
    "a container whose group has the host's name": (
        V1.replace(" / ", " /docker/0a "),
        "4:memory:/docker/0a/inner\n3:cpu,cpuacct:/docker/0a\n",
        "memory/memory.limit_in_bytes=4G; memory/inner/memory.limit_in_bytes=1G; "
        "cpu,cpuacct/cpu.cfs_quota_us=150000; cpu,cpuacct/cpu.cfs_period_us=100000",
        (1, 1 * GB),
    ),
    "a group outside of what is seen": (
        V2.replace(" / ", " /docker/0a "),
        "0::/../elsewhere\n",
        "memory.max=4G; ../elsewhere/memory.max=1",
        (64, 4 * GB),
    ),
    "a mount point and a group with blanks": (
        V2.replace("/sys/fs/cgroup", r"/sys/fs/cgroup/all\040groups"),
        "0::/my job\n",
        "all groups/my job/memory.max=4G; all groups/cpu.max=600000 100000",
        (6, 4 * GB),
    ),
    "no limit": (V2, "0::/\n", "memory.max=max; cpu.max=max 100000", (64, 64 * GB)),
    "no control groups": ("", "", "", (64, 64 * GB)),
    "nonsense": (
        V2 + "nonsense\n - cgroup2\n",
        "nonsense\n0::/\n::\n",
        "memory.max=-5; cpu.max=1 0",
        (64, 64 * GB),
    ),
}


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_a_job_has_the_smallest_limit_of_its_groups(tmp_path, system):
    *laid, expected = system
    root = laid_out(tmp_path, *laid)
    assert (machine.cores(root), machine.memory(root)) == expected


def test_a_job_has_no_more_cores_than_it_may_run_on(tmp_path, monkeypatch):
    root = laid_out(tmp_path, V2, "0::/\n", "cpu.max=800000 100000")
    assert machine.cores(root) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    assert machine.cores(root) == 1


def test_without_proc_it_is_the_whole_machine(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (machine.cores(tmp_path), machine.memory(tmp_path)) == (1, 16 * GB)


def test_whatever_asks_for_cores_or_memory_asks_for_the_jobs():
    for folder in ("tod", "experiments"):
        for path in (Path(__file__).parents[2] / folder).rglob("*.py"):
            whole = ("cpu_count", "sched_getaffinity", "SC_PHYS_PAGES", "memory.max")
            if path.name != "machine.py":
                assert not any(word in path.read_text("utf-8") for word in whole), path
