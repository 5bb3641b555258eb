"""What forked runs do otherwise, so that short ones can be killed and stopped in their midst."""

import signal
import time

from tod.engine import loop
from tod.engine.loop import Loop


def save_after_each_epoch() -> None:
    loop.EPOCHS_BETWEEN_SAVES = 1


def wait_after_two_saves() -> None:
    """Saves after each epoch; a trial that has done so, and has a spare state, waits for a signal.

    It does so in its next step; SIGCONT lets it go on.
    """
    save_after_each_epoch()
    after_step, save = Loop._after_step, Loop.save
    saved, goes_on = [], []
    signal.signal(signal.SIGCONT, lambda *_: goes_on.append(True))

    def save_and_say_so(loop: Loop) -> None:
        save(loop)
        saved[:] = [loop] if loop.progress.spare.exists() else []

    def wait(loop: Loop) -> None:
        interruption, deadline = loop.trial.experiment.interruption, time.monotonic() + 300
        while loop in saved and not (goes_on or interruption.requested):
            assert time.monotonic() < deadline, "no signal has come"
            time.sleep(0.01)
        after_step(loop)

    Loop._after_step, Loop.save = wait, save_and_say_so
