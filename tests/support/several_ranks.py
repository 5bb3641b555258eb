"""Functions that several processes run together, as torchrun's ranks do."""

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS

RUN = [
    *TINY_DIGITS,
    "--set=active_learning.trials=3",
    "--set=training.epochs=3",
    "--set=training.milestones=[2]",
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
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
    }
    code = "from tests.support.several_ranks import answer; answer()"
    deadline = time.monotonic() + 300
    with TemporaryDirectory() as folder:
        Path(folder, "question").write_bytes(pickle.dumps((function, arguments)))
        answers = [Path(folder, str(rank)) for rank in range(world_size)]
        processes = [
            Process(
                [sys.executable, "-c", code, path],
                cwd=PROJECT_DIR,
                env=one_thread(**shared, RANK=path.name, LOCAL_RANK=path.name),
            )
            for path in answers
        ]
        try:
            while not all(path.exists() for path in answers):
                for path, process in zip(answers, processes, strict=True):
                    status = process.poll()
                    assert status is None or path.exists(), f"rank {path.name} ended with {status}"
                assert time.monotonic() < deadline, "the ranks take too long"
                time.sleep(0.01)
            return [pickle.loads(path.read_bytes()) for path in answers]
        finally:
            for process in processes:
                process.kill()
                process.wait()


def answer() -> None:
    """Answers as one of the ranks."""
    path = Path(sys.argv[1])
    function, arguments = pickle.loads(path.with_name("question").read_bytes())
    given = function(int(path.name), int(os.environ["WORLD_SIZE"]), *arguments)
    partial = path.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(given))
    partial.rename(path)
