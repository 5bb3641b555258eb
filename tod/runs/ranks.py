"""Several processes for one run, started by `torchrun` or by this module."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

from torch import distributed

from tod.config import InputError
from tod.runs.commands import run_commands
from tod.system.machine import share_of_cores

PROCESSES = "processes"
"""The name of a run whose ranks `run_as_ranks` has started, instead of `torchrun`'s."""


class Ranks(NamedTuple):
    """This process among all, and among those of its node."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether it does the work of which one process is in charge."""
        return self.rank == 0

    def share(self, trials: Sequence[int]) -> Sequence[int]:
        """The trials of this process."""
        return trials[self.rank :: self.world_size]


def started_by() -> str | None:
    """The name of the run that has started this process as a rank: PROCESSES, or `torchrun`'s."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def ranks_from_environment() -> Ranks:
    """The rank that `torchrun` has given this process; without it, a process alone."""
    if started_by() is None:
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


def run_as_ranks(command: Sequence[str], processes: int) -> int:
    """Runs a command as several ranks on this machine, which share its work.

    If one fails, the others save their states and end, as under `torchrun`. Returns the exit status
    of the first that has failed, or 0.
    """
    on_windows = os.name == "nt"  # PyTorch has no libuv there
    settings = {"is_master": True, "wait_for_workers": False, "use_libuv": not on_windows}
    store = distributed.TCPStore("127.0.0.1", 0, **settings)
    shared = {
        **os.environ,
        "TORCHELASTIC_RUN_ID": PROCESSES,
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        **share_of_cores(processes),
    }
    statuses = run_commands(
        dict.fromkeys(range(processes), command),
        processes,
        lambda rank: {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        together=True,
    )
    return next((status for status in statuses.values() if status), 0)


@contextmanager
def main_process_first(ranks: Ranks) -> Iterator[None]:
    """Lets the ranks enter this context in turn, so that the first saves the others work.

    Rank 0 comes first: it may empty the run's folder, or download the data. Then comes the first
    rank of every other node, whose disk may need the same data, then all others at once. After that
    no rank waits for another.
    """
    if ranks.world_size == 1:
        yield
        return
    _with_the_others(ranks, distributed.init_process_group, "gloo", timeout=timedelta(days=1))
    turn = 0 if ranks.is_main_process else 1 if ranks.local_rank == 0 else 2
    try:
        for _ in range(1 + turn):  # once all are connected, a barrier notices a rank that has left
            _with_the_others(ranks, distributed.barrier)
        yield
        for _ in range(2 - turn):
            _with_the_others(ranks, distributed.barrier)
    finally:
        distributed.destroy_process_group()


def _with_the_others(
    ranks: Ranks, do: Callable[..., object], *arguments: Any, **settings: Any
) -> None:
    try:
        do(*arguments, **settings)
    except RuntimeError:
        raise InputError(f"[rank {ranks.rank}] another rank has failed, and says why") from None
