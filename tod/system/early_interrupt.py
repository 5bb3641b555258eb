"""Makes a Ctrl-C while a script imports its libraries one line and status 130."""

import sys
from types import TracebackType


def leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ends a script that is still importing; later, `exit_status` handles the interrupt."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")  # in one piece, unlike print: others may write, too
        sys.exit(130)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = leave
