"""Commands that run at the same time, and the signals that are meant for them."""

import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import IO, NamedTuple, TypeVar

import torch

from tod.runs.signals import handled_by
from tod.system.machine import share_of_cores

Key = TypeVar("Key", bound=Hashable)

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_STOP = 300


def share_of_machine(slot: int, processes: int) -> dict[str, str]:
    """The variables of a run beside others: its share of the cores, and its GPU."""
    variables = {**os.environ, **share_of_cores(processes)}
    if (gpus := torch.cuda.device_count()) > 1:
        visible = variables.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % gpus]
    # As torchrun tells its ranks how many share the memory of what they see.
    variables["LOCAL_WORLD_SIZE"] = str(math.ceil(processes / max(gpus, 1)))
    return variables


class _Running(NamedTuple):
    child: subprocess.Popen
    slot: int
    output: IO[bytes] | None


def run_commands(
    commands: Mapping[Key, Sequence[str]],
    processes: int,
    environment: Callable[[int], Mapping[str, str]] = lambda slot: os.environ,
    look: Callable[[], None] = lambda: None,
    ended: Callable[[Key, int, str], None] | None = None,
    together: bool = False,
) -> dict[Key, int]:
    """Runs all commands to their end; a signal goes to all that run, and none begins after it.

    Args:
        processes: how many run at once.
        environment: the variables of a command that runs as this one of those at once, from 0.
        look: called again and again.
        ended: called with a command that has ended, its status, and what it has printed; None:
            that is shown as it comes.
        together: where one fails, the others are told to stop; what has not stopped five minutes
            after a signal is killed, since it may wait for one that has failed.

    Returns:
        The exit status of each, in the order in which they ended: 128 + the signal's number, as in
        a shell, where a signal has ended it, or has kept it from running.
    """
    waiting, running = list(commands), dict[Key, _Running]()
    signals, statuses, num_passed_on = list[int](), dict[Key, int](), 0
    deadline = time.monotonic() + SECONDS_TO_STOP
    with handled_by(lambda number, frame: signals.append(number)):
        while running or (waiting and not signals):
            while waiting and not signals and len(running) < processes:
                key = waiting.pop(0)
                slot = min({*range(processes)} - {each.slot for each in running.values()})
                output = tempfile.TemporaryFile() if ended else None  # noqa: SIM115 - see below
                settings = {"stdout": output, "stderr": output, "env": dict(environment(slot))}
                # In a session of its own, it gets no signal from the terminal, but ours alone.
                child = subprocess.Popen(commands[key], start_new_session=True, **settings)
                running[key] = _Running(child, slot, output)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            look()
            if not signals:
                deadline = time.monotonic() + SECONDS_TO_STOP
            news = signals[num_passed_on:]
            num_passed_on += len(news)
            for key, each in [*running.items()]:
                # Windows has no such sessions: its console has told them.
                for number in news if os.name == "posix" else ():
                    each.child.send_signal(number)
                if together and time.monotonic() > deadline:
                    each.child.kill()
                if each.child.poll() is None:
                    continue
                del running[key]
                status = each.child.returncode
                statuses[key] = status if status >= 0 else 128 - status
                if together and status and not signals:
                    signals.append(signal.SIGTERM)
                if ended is not None:
                    with each.output as output:
                        output.seek(0)
                        ended(key, statuses[key], output.read().decode(errors="replace"))
    return statuses | dict.fromkeys(waiting, 128 + (signals or [0])[-1])
