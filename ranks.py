"""Several processes for one run, as `torchrun` starts them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed

from command_line import Run


@contextmanager
def in_turn(run: Run) -> Iterator[None]:
    """What every rank does, but one after the other where the first makes it easy for the rest.

    Rank 0 goes first: it may empty the run's folder, or download the data. The first rank of every
    other node follows, whose disk may want the same data, then all others at once. After that no
    rank waits for another: one that dies takes nothing with it.
    """
    if run.world_size == 1:
        yield
        return
    distributed.init_process_group("gloo", timeout=timedelta(days=1))
    turn = 0 if run.rank == 0 else 1 if run.local_rank == 0 else 2
    try:
        for _ in range(turn):
            distributed.barrier()
        yield
        for _ in range(2 - turn):
            distributed.barrier()
    finally:
        distributed.destroy_process_group()
