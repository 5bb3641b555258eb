"""What tests start by a fork is what people start: `tests.support.forks` against `subprocess`."""

import resource
import signal
import sys
from functools import partial
from subprocess import DEVNULL, PIPE, Popen

import pytest

from tests.support.forks import Process, one_thread

CODES = {
    "status": "raise SystemExit(3)",
    "words": "raise SystemExit('words')",
    "nothing": "raise SystemExit",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "interrupted": "import os, signal\n"
    # In the background, a shell has it ignored.
    "signal.signal(signal.SIGINT, signal.default_int_handler); os.kill(os.getpid(), signal.SIGINT)",
    "uncaught": "print('shown', flush=True); 1 / 0",
    "unflushed": "import atexit; atexit.register(print, 'last'); print('first', end='')",
    "threads": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.2), print('ended'))).start()",
    "surroundings": "import os, resource, sys, threading\n"
    "print(os.getcwd(), sys.argv, sys.path[0], __name__, os.getppid())\n"
    "print(sorted(os.environ.items()), os.listdir('/proc/self/fd')[:3], os.umask(0))\n"
    "print(os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid())\n"
    "print(resource.getrlimit(resource.RLIMIT_FSIZE))\n"
    "import torch; print(torch.get_num_threads(), threading.active_count())",
    "streams": "import sys\n"
    "print([(s.encoding, s.errors, s.line_buffering, s.isatty()) for s in (sys.stdin, sys.stdout,"
    " sys.stderr)], sys.stdin.read(), sys.stdout.fileno(), file=sys.stderr)",
    "signals": "import signal\n"
    "print([(n, signal.getsignal(n)) for n in signal.valid_signals()"
    " if signal.getsignal(n) is not signal.SIG_DFL and n != signal.SIGINT])\n"
    "print(getattr(signal.getsignal(signal.SIGINT), '__name__', signal.getsignal(signal.SIGINT)))",
}


def answer(
    how: type[Popen], code: str, cwd: object, **settings: object
) -> tuple[int, str, list[str]]:
    variables = {**one_thread(OWN="value"), "PYTEST_CURRENT_TEST": ""}
    pipes = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, "text": True}
    command = [sys.executable, "-c", code, "an argument"]
    with how(command, cwd=cwd, env=variables, **pipes, **settings) as process:
        shown, errors = process.communicate()
    return process.returncode, shown, errors.splitlines()[-1:]


LIMITED = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (9**6, 9**6))


@pytest.mark.parametrize("name", CODES)
def test_a_forked_process_is_as_one_that_starts_cold(name, tmp_path):
    settings = {"start_new_session": True, "preexec_fn": LIMITED}
    for given in [{}, settings] if name == "surroundings" else [{}]:
        found = answer(Process, CODES[name], tmp_path, **given)
        assert found == answer(Popen, CODES[name], tmp_path, **given)
        assert any(found) or name == "nothing"


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None])
def test_a_fork_ignores_what_its_parent_ignores(handler, tmp_path):
    before = {number: signal.signal(number, handler) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        found = [answer(how, CODES["signals"], tmp_path) for how in (Process, Popen)]
    finally:
        for number, former in before.items():
            signal.signal(number, former)
    assert found[0] == found[1]


def test_what_a_forked_process_starts_is_its_child_and_is_forked(tmp_path):
    inner = "import os, sys; print(os.getppid(), 'torch' in sys.modules)"
    outer = "import os, subprocess, sys; print(os.getpid(), flush=True)\n" + (
        f"raise SystemExit(subprocess.call([sys.executable, '-u', '-c', {inner!r}]) + 7)"
    )
    status, shown, errors = answer(Process, outer, tmp_path)
    assert (status, errors) == (7, [])
    pid, parent, is_forked = shown.split()
    assert (parent, is_forked) == (pid, "True")


def test_what_is_read_at_the_start_alone_starts_cold(tmp_path):
    code = "import sys; print(sys.stdout.encoding, 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    for variables in ({"PYTHONIOENCODING": "latin-1"}, {"OMP_NUM_THREADS": "2"}):
        with Process(command, env=one_thread(**variables), stdout=PIPE, text=True) as process:
            assert process.stdout.read().endswith(" False\n")


def test_forks_do_not_share_what_is_drawn_without_a_seed(tmp_path):
    code = "import random, numpy, torch\n"
    code += "print(random.random(), numpy.random.rand(), torch.rand(()))"
    draws = [answer(Process, code, tmp_path)[1].split() for _ in range(2)]
    assert all(one != other for one, other in zip(*draws, strict=True))
