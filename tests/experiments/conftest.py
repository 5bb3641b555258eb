"""What the tests of both scripts share."""

from collections.abc import Callable
from types import ModuleType

import pytest

from tod.cli import exit_status


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Calls a script in this process, in the test's folder; gives the line that it refuses with."""
    monkeypatch.chdir(tmp_path)

    def call(script: ModuleType, *arguments: object) -> str:
        with pytest.raises(SystemExit) as left, exit_status():
            script.main([*map(str, arguments)])
        captured = capsys.readouterr()
        assert left.value.code == 2
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line

    return call
