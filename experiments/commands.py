"""Commands that run one after the other, and the signals that are meant for them."""

import os
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType


class Commands:
    """Runs commands one after the other; a signal goes to the running one, which saves its state.

    Used as a context, after which signals are answered as before.
    """

    def __init__(self) -> None:
        self.child: subprocess.Popen | None = None
        self.signal: int | None = None
        self.told = False
        """Whether the running command knows of the signal."""

    def run(self, command: Sequence[str]) -> int:
        """Runs a command to its end, but not one after a signal.

        Returns:
            Its exit status; 128 + the signal's number, as in a shell, where a signal has ended it.
        """
        if self.signal is not None:
            return 128 + self.signal
        # In a session of its own, it gets no signal from the terminal beside the one from here.
        with subprocess.Popen(command, start_new_session=True) as self.child:
            if self.signal is not None and not self.told:  # it came during the start
                self._tell()
            status = self.child.wait()
        self.child = None
        return status if status >= 0 else 128 - status

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        # A terminal that is closed ends the commands as a job's end does: with their state saved.
        self.signal = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        if self.child is not None:
            self._tell()

    def _tell(self) -> None:
        self.told = True
        if os.name == "posix":  # elsewhere there are no such sessions: the console has told it
            self.child.send_signal(self.signal)

    def __enter__(self) -> "Commands":
        signals = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # there is none on Windows
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            signals.append(hangup)  # it is ignored under nohup
        self._previous = {number: signal.signal(number, self._pass_on) for number in signals}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
