"""Commands that run at the same time, and the signals that are meant for them."""

import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import FrameType
from typing import IO, NamedTuple, TypeVar

import torch

from tod.runs.signals import answered
from tod.system.machine import share_of_cores

Key = TypeVar("Key", bound=Hashable)

SECONDS_BETWEEN_LOOKS = 0.5


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
    output: IO[bytes]


class Commands:
    """Runs commands, so many at once; a signal goes to all that run, which save their states.

    Used as a context, after which signals are answered as before.

    Args:
        processes: how many run at once.
        shows_output: what they print is shown as it comes, and not kept for when they have ended.
        seconds_to_stop: so long after a signal, those that still run are killed; None: never.
    """

    def __init__(
        self,
        processes: int = 1,
        shows_output: bool = False,
        seconds_to_stop: float | None = None,
    ) -> None:
        self.processes = processes
        self.shows_output = shows_output
        self.seconds_to_stop = seconds_to_stop
        self.told_at = 0.0
        self.signal: int | None = None
        self._running: dict[Hashable, _Running] = {}
        self._told: set[subprocess.Popen] = set()

    def run(
        self,
        commands: Mapping[Key, Sequence[str]],
        environment: Callable[[int], Mapping[str, str]] = lambda slot: os.environ,
        look: Callable[[], None] = lambda: None,
        ended: Callable[[Key, int, str], None] = lambda key, status, output: None,
    ) -> dict[Key, int]:
        """Runs all commands to their end; after a signal, none begins.

        Args:
            commands: by any name, in this order.
            environment: the variables of a command that runs as this one of those at once, from 0.
            look: called again and again.
            ended: called with the name of a command that has ended, its status, and what it has
                printed.

        Returns:
            The exit status of each, in their order: 128 + the signal's number, as in a shell, where
            a signal has ended it, or has kept it from running.
        """
        waiting, statuses = list(commands), {}
        while self._running or (waiting and self.signal is None):
            while waiting and self.signal is None and len(self._running) < self.processes:
                key = waiting.pop(0)
                self._start(key, commands[key], environment)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            self._kill_what_does_not_stop()
            look()
            for key in [k for k, (child, *_) in self._running.items() if child.poll() is not None]:
                child, _, output = self._running.pop(key)
                status = child.returncode
                statuses[key] = status if status >= 0 else 128 - status
                with output:
                    output.seek(0)
                    ended(key, statuses[key], output.read().decode(errors="replace"))
        never = 128 + (self.signal or 0)
        return {key: statuses.get(key, never) for key in commands}

    def _start(
        self,
        key: Hashable,
        command: Sequence[str],
        environment: Callable[[int], Mapping[str, str]],
    ) -> None:
        slot = min({*range(self.processes)} - {running.slot for running in self._running.values()})
        output = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the command has ended
        child = subprocess.Popen(
            command,
            stdout=None if self.shows_output else output,
            stderr=None if self.shows_output else output,
            env=dict(environment(slot)),
            # In a session of its own, it gets no signal from the terminal beside the one from here.
            start_new_session=True,
        )
        self._running[key] = _Running(child, slot, output)
        if self.signal is not None and child not in self._told:  # it came during the start
            self._tell(child)

    def stop(self) -> None:
        """Lets all that run save their states and end; no other begins."""
        self._pass_on(signal.SIGTERM, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.told_at = time.monotonic()
        for child, *_ in list(self._running.values()):
            self._tell(child)

    def _kill_what_does_not_stop(self) -> None:
        if self.signal is None or self.seconds_to_stop is None:
            return
        if time.monotonic() > self.told_at + self.seconds_to_stop:
            for child, *_ in self._running.values():
                child.kill()

    def _tell(self, child: subprocess.Popen) -> None:
        self._told.add(child)
        if os.name == "posix":  # elsewhere there are no such sessions: the console has told it
            child.send_signal(self.signal)

    def __enter__(self) -> "Commands":
        self._previous = {number: signal.signal(number, self._pass_on) for number in answered()}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
