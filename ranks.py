"""Several processes for one run, as `torchrun` starts them."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed

from command_line import Run
from configuration import InputError


@contextmanager
def in_turn(run: Run) -> Iterator[None]:
    """What every rank does, but one after the other where the first makes it easy for the rest.

    Rank 0 goes first: it may empty the run's folder, or download the data. The first rank of every
    other node follows, whose disk may want the same data, then all others at once. After that no
    rank waits for another.

    Raises:
        InputError: a rank has failed before that.
    """
    if run.world_size == 1:
        yield
        return
    distributed.init_process_group("gloo", timeout=timedelta(days=1))
    turn = 0 if run.rank == 0 else 1 if run.local_rank == 0 else 2
    try:
        for _ in range(turn):
            _wait_for_the_others(run)
        yield
        for _ in range(2 - turn):
            _wait_for_the_others(run)
    finally:
        distributed.destroy_process_group()


def _wait_for_the_others(run: Run) -> None:
    try:
        distributed.barrier()
    except RuntimeError:
        raise InputError(f"[rank {run.rank}] another rank has failed, and says why") from None
