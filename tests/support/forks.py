"""Python processes forked from one that has everything imported: a cold start takes seconds.

That one imports and never computes, since OpenMP's threads would not survive the fork. All else is
as in a cold process, a child of whoever starts it: status, signals, locks, streams, variables,
directory, limits, terminal. What such a process starts in turn is forked, too.
"""

import atexit
import ctypes
import gc
import importlib
import io
import os
import pickle
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, NamedTuple

PROJECT_DIR = Path(__file__).parents[2]
IMPORTED = (
    *("main_TOD", "main_LL4AL", "plot", "report", "predict", "pytest", "torch.distributed.run"),
    *("experiments.grid", "experiments.reproduce", "matplotlib.backends.backend_agg"),
    *("matplotlib.figure", "scipy.io", "scipy.stats", "sklearn.cluster", "sklearn.datasets"),
    *("sklearn.metrics", "sklearn.model_selection", "torch.utils.tensorboard"),
    *("torchvision.datasets", "tod.analysis.report", "tod.engine.experiment", "tod.engine.launch"),
    *("tod.engine.prediction", "tod.engine.ranks", "tests.support.people", "tests.support.saves"),
)
READ_AT_START = re.compile("PYTHON|OMP_|MKL_|OPENBLAS_|ONEDNN_|LD_")
"""The variables that Python and the libraries read when they begin, and not again."""
FIRST = "TEST_FIRST"
"""The variable with the function, as `module:name`, that forked processes call first."""
FORK_SERVER = "fork server"
PR_SET_CHILD_SUBREAPER = 36
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""Those that a process ignores where the one that starts it does."""


Server = tuple[socket.socket, Mapping[str, str]]
"""Where a process asks for others, and the variables with which these have begun."""
_server: Server | None = None
_status: list[int] = []
_one_at_a_time = Lock()
_start_cold = subprocess.Popen._execute_child


class Process(subprocess.Popen):
    """`subprocess.Popen`, but Python on one thread is forked: a script, `-c code` or `-m module`.

    `preexec_fn` must be picklable. What needs other options of Python, or other variables that are
    read at its start, starts cold.
    """

    def _execute_child(self, *given: Any) -> None:
        args, _, preexec_fn, _, _, cwd, env, _, _, is_shell, *rest = given
        pipes, starts_session = rest[:6], rest[11]
        variables = dict(os.environ if env is None else env)
        if is_shell or not _is_forkable(args, variables):
            _start_cold(self, *given)
            return
        arguments = [*map(os.fsdecode, args[1:])]
        ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
        place = cwd or Path.cwd()
        request = Request(arguments, variables, place, starts_session, ignored, preexec_fn)
        ours = enumerate((pipes[0], pipes[3], pipes[5]))
        self.pid = _fork(request, [number if pipe == -1 else pipe for number, pipe in ours])
        self._child_created = True
        self._close_pipe_fds(*pipes)


class Request(NamedTuple):
    arguments: list[str]
    variables: dict[str, str]
    cwd: Path
    starts_session: bool
    ignored: list[int]
    before: Any


def run(command: Sequence[object], **settings: Any) -> subprocess.CompletedProcess:
    """As `subprocess.run`, on one thread, with both outputs as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with Process(command, env=one_thread(), **pipes, **settings) as process:
        output = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, *output)


def one_thread(first: Callable[[], None] | None = None, **more: str) -> dict[str, str]:
    """The variables of a process on one thread, which calls a function first if it is forked."""
    named = {} if first is None else {FIRST: f"{first.__module__}:{first.__name__}"}
    return {**os.environ, "OMP_NUM_THREADS": "1", **named, **more}


def _is_forkable(args: Any, variables: Mapping[str, str]) -> bool:
    if sys.platform != "linux" or isinstance(args, str | bytes) or args[0] != sys.executable:
        return False
    first = next(argument for argument in map(os.fsdecode, args[1:3]) if argument != "-u")
    ours, theirs = (
        {name: each[name] for name in each if READ_AT_START.match(name)}
        for each in (variables, _started()[1])
    )
    return ours == theirs and (first in ("-c", "-m") or not first.startswith("-"))


def _started() -> Server:
    """The server of this process, which ends with it."""
    global _server
    if _server is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        variables = one_thread()
        command = [sys.executable, "-c", "from tests.support import forks; forks.serve()"]
        process = subprocess.Popen(command, stdin=theirs, cwd=PROJECT_DIR, env=variables)
        theirs.close()
        atexit.register(lambda: (ours.close(), process.wait()))
        _server = ours, variables
    return _server


def _fork(request: Request, streams: Sequence[int]) -> int:
    """The process id of a new child of this process."""
    requests, _ = _started()
    prctl = ctypes.CDLL(None).prctl
    with _one_at_a_time:
        # Whose parent ends is ours now: the server has the child by way of one that ends at once.
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        socket.send_fds(requests, [pickle.dumps(request)], streams)
        answer = requests.recv(32)
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert answer, "the fork server has ended"
    return int(answer)


# --------------------------------------------------------------- in the other processes


def serve() -> None:
    """Forks for whoever asks by standard input; in the fork, does what it is asked for."""
    global _server
    atexit.register(_leave)  # as the first, it is called last
    variables = dict(os.environ)
    requests = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # pages that the forks share
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "threads do not survive a fork"
    while True:
        Path("/proc/self/comm").write_text(FORK_SERVER)
        _give([os.open(os.devnull, os.O_RDWR) for _ in range(3)])
        request, streams = _asked_for(requests)
        requests.close()
        _give(streams)
        os.chdir(request.cwd)
        if request.starts_session:
            os.setsid()
        if request.before is not None:
            request.before()
        # A server of its own, as it will have computed when it asks.
        ours, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():
            requests.close()
            break
        ours.close()
    _server = ours, variables
    subprocess.Popen._execute_child = Process._execute_child
    for number in SIGNALS:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request.ignored else default)
    try:
        _run(request)
        _status.append(0)
    except SystemExit as leaving:
        code = leaving.code
        _status.append(code if isinstance(code, int) else int(code is not None))
        raise
    except Exception:  # KeyboardInterrupt ends Python by the signal
        _status.append(1)
        raise


def _give(streams: Sequence[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)


def _leave() -> None:
    """Ends as Python would, but that it does not take its modules apart: that takes longer."""
    if _status:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status[0])


def _asked_for(requests: socket.socket) -> tuple[Request, list[int]]:
    """Forks until nobody can ask any more; returns in the fork, with its streams."""
    while True:
        content, streams, _, _ = socket.recv_fds(requests, 2**20, 3)
        if not content:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            between, child = os.getpid(), os.fork()
            if child:
                os.write(writing, str(child).encode())
                os._exit(0)
            os.close(reading)
            os.close(writing)
            while os.getppid() == between:
                time.sleep(0.001)
            return pickle.loads(content), streams
        answer = os.read(reading, 32)
        for descriptor in (reading, writing, *streams):
            os.close(descriptor)
        os.waitpid(between, 0)
        requests.send(answer)


def _run(request: Request) -> None:
    import numpy as np
    import torch

    Path("/proc/self/comm").write_text("python")
    os.environ.clear()
    os.environ.update(request.variables)
    np.random.seed()  # at random, as in a cold process
    torch.default_generator.seed()
    sys.excepthook = sys.__excepthook__  # which the entry scripts' imports have changed
    if FIRST in os.environ:
        module, _, name = os.environ[FIRST].partition(":")
        getattr(importlib.import_module(module), name)()
    is_unbuffered = request.arguments[0] == "-u"
    _reopen_standard_streams(is_unbuffered or bool(os.environ.get("PYTHONUNBUFFERED")))
    kind, *sys.argv = request.arguments[is_unbuffered:]
    if kind == "-m":
        sys.path[0] = str(request.cwd)
        sys.modules.pop(sys.argv[0], None)
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path[0] = ""
        code, sys.argv[0] = sys.argv[0], "-c"
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        sys.path[0] = str(Path(kind).resolve().parent)
        sys.argv.insert(0, kind)
        runpy.run_path(kind, run_name="__main__")


def _reopen_standard_streams(is_unbuffered: bool) -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        former = getattr(sys, name)
        buffering = 0 if is_unbuffered and number else -1
        binary = open(number, "wb" if number else "rb", buffering, closefd=False)  # noqa: SIM115
        is_by_line = not is_unbuffered and (number == 2 or binary.isatty())
        ends = {"line_buffering": is_by_line, "write_through": is_unbuffered}
        stream = io.TextIOWrapper(binary, former.encoding, former.errors, **ends)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
