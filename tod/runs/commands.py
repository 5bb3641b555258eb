"""Commands that run at the same time, and the signals for them."""

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
    """The environment of a run beside others: its share of the cores, and its GPU."""
    variables = {**os.environ, **share_of_cores(processes)}
    if (gpus := torch.cuda.device_count()) > 1:
        visible = variables.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % gpus]
    # As torchrun does: how many processes share the memory of the visible GPUs.
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
    """Runs all commands to their end; a signal goes to those that run, and no more begin.

    Args:
        processes: how many run at once.
        environment: the variables of a command, by its slot among those that run at once, from 0.
        look: called repeatedly.
        ended: called with each command that has ended, its status and its output; if None, the
            output is shown as it comes.
        together: if one fails, the others are told to stop; those that still run five minutes after
            a signal are killed, since they may wait for the failed one.

    Returns:
        The exit statuses in the order in which the commands ended: as in a shell, 128 + the number
        of the signal that has ended a command or has kept it from starting.
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
                # In its own session, it gets signals from this process only, not from the terminal.
                child = subprocess.Popen(commands[key], start_new_session=True, **settings)
                running[key] = _Running(child, slot, output)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            look()
            if not signals:
                deadline = time.monotonic() + SECONDS_TO_STOP
            news = signals[num_passed_on:]
            num_passed_on += len(news)
            for key, each in [*running.items()]:
                # Windows has no such sessions: its console signals all processes.
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
