"""Ranks that answer questions together, as torchrun's do, without a start for each question."""

import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from subprocess import PIPE
from threading import Timer
from typing import Any

from torch import distributed

from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class RankPool:
    """Processes that are, for each question, the ranks of a group of its own, or some of them."""

    def __init__(self, size: int) -> None:
        code = "from tests.support.several_ranks import answer; answer()"
        pipes = {"stdin": PIPE, "stdout": PIPE}
        self.processes = [
            Process([sys.executable, "-c", code], cwd=PROJECT_DIR, env=one_thread(), **pipes)
            for _ in range(size)
        ]

    def ask(self, world_size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(rank, world_size, *arguments)` gives in so many processes, by rank.

        Fails where one has failed, has ended, or takes longer than five minutes.
        """
        ranks = self.processes[:world_size]
        port = free_port()
        for rank, process in enumerate(ranks):
            pickle.dump((port, function, (rank, world_size, *arguments)), process.stdin)
            process.stdin.flush()
        guard = Timer(300, self.close)
        guard.start()
        try:
            answers = [pickle.load(process.stdout) for process in ranks]
        finally:
            guard.cancel()
        assert not any(error for _, error in answers), "\n".join(error for _, error in answers)
        return [given for given, _ in answers]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


def answer() -> None:
    """Answers as one of the ranks, until it is ended."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # where gloo says that it has found the others
    while True:
        port, function, (rank, world_size, *arguments) = pickle.load(questions)
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        os.environ |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world_size))
        try:
            given, error = function(rank, world_size, *arguments), ""
        except BaseException:
            given, error = None, traceback.format_exc()
        if distributed.is_initialized():  # as where a process ends
            distributed.destroy_process_group()
        pickle.dump((given, error), answers)
        answers.flush()
