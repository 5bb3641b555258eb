"""Makes a Ctrl-C while a script imports its libraries one line and status 130."""

import sys
from types import TracebackType


def leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ends a script that is still importing; later, `exit_status` handles the interrupt."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = leave
