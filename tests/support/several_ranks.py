"""Functions that several processes run together, as torchrun's ranks do."""

import multiprocessing
import os
import pickle
import queue
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

from tests.support.harness import TINY_DIGITS

RUN = [
    *TINY_DIGITS,
    "--set=active_learning.trials=3",
    "--set=training.epochs=22",
    "--set=training.milestones=[15]",
]
"""Three trials, which several processes may share out."""


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def on_ranks(world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(rank, world_size, *arguments)` gives in so many processes, by rank.

    Raises:
        AssertionError: one has failed, or takes too long.
    """
    spawning = multiprocessing.get_context("spawn")
    answers = spawning.Queue()
    port = free_port()
    processes = [
        spawning.Process(
            target=_answer, args=(answers, port, rank, world_size, function, arguments)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    found = {}
    try:
        while len(found) < world_size:
            rank, answer, problem = answers.get(timeout=300)
            assert problem is None, problem
            found[rank] = pickle.loads(answer)
    except queue.Empty:
        raise AssertionError("the ranks take too long") from None
    finally:
        for process in processes:
            process.join(10 if len(found) == world_size else 0)
            process.kill()
    return [found[rank] for rank in range(world_size)]


def _answer(
    answers: Any,
    port: int,
    rank: int,
    world_size: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
    }
    try:
        # As bytes: tensors would go through memory that ends with this process.
        answers.put((rank, pickle.dumps(function(rank, world_size, *arguments)), None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
