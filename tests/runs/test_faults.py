"""Whatever file operation fails, a run warns or stops with one line, and goes on as if it had not.

`--faults 1000` tries every single operation.
"""

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.faults import KINDS, failing, moments, why_it_ends
from tests.support.harness import Run, tiny_run
from tests.support.soak import differences, results

SHORT = (
    *("--keep-weights=last", "--set=model.width=1", "--set=active_learning.initial_labels=8"),
    *("--set=active_learning.query_size=4", "--set=active_learning.subset_size=16"),
)
CASES = [
    *(("new", kind) for kind in KINDS if kind != "rmdir"),
    *(("resumed", kind) for kind in ("replace", "write", "unlink", "open for reading")),
    *(("overwritten", kind) for kind in ("unlink", "rmdir", "open a folder", "lock")),
]


class Scenario(NamedTuple):
    """A run before the command in which something fails.

    `counts` says how often an operation of each kind is done, `expected` what must come of it.
    """

    folder: Path
    counts: dict[str, int]
    expected: dict[str, object]


def short_run(output_dir: Path, scenario: str = "new") -> Run:
    overwrite = ["--overwrite"] if scenario == "overwritten" else []
    return tiny_run(output_dir, "main_TOD.py", "TOD", "TOD", *SHORT, *overwrite)


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory, cheap_pictures) -> dict[str, Scenario]:
    place = tmp_path_factory.mktemp("faults")
    before = {
        name: short_run(place / name / "before") for name in ("new", "resumed", "overwritten")
    }
    before["new"].folder.parent.mkdir(parents=True)
    before["resumed"].stop_after(3)
    before["overwritten"].start()
    expected = results(before["overwritten"].folder)
    found = {}
    for name, run in before.items():
        copy = place / name / "copy"
        shutil.copytree(run.folder.parent, copy)
        with ExitStack() as stack:
            faults = {kind: stack.enter_context(failing(kind, copy)) for kind in KINDS}
            short_run(copy, name).start()
        counts = {kind: fault.count for kind, fault in faults.items()}
        found[name] = Scenario(run.folder.parent, counts, expected)
    return found


def test_only_the_last_weights_are_kept_where_asked(scenarios):
    kept = [name.split()[0] for name in scenarios["new"].expected if name.startswith("weights")]
    assert {*kept} == {"weights/trial1_cycle2.pth"}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_run_ends_well_after_a_failure(tmp_path, scenarios, pytestconfig, capsys, name, kind):
    scenario = scenarios[name]
    assert scenario.counts[kind] > 0
    for moment in moments(scenario.counts[kind], pytestconfig.getoption("--faults")):
        place = tmp_path / str(moment)
        shutil.copytree(scenario.folder, place)
        run = short_run(place, name)
        capsys.readouterr()
        with failing(kind, place, moment) as fault:
            line = why_it_ends(run.start)
        shown = capsys.readouterr().out + line
        what = f"operation {moment} of {scenario.counts[kind]}: {shown}"
        assert fault.count >= moment, what
        said = "removed (Operation not permitted)" if kind == "unlink" else ""
        assert f"cannot be {said}" in shown, what
        assert not why_it_ends(run.start), what
        # What could not be removed, a user removes; a missing picture has had its warning.
        unremoved = r"^(.*/weights/.*|.*/\.config.*): cannot be removed"
        for path in re.findall(unremoved, shown, re.MULTILINE):
            Path(path).unlink(missing_ok=True)
        assert not list(place.rglob("*.partial")), what
        found, expected = results(run.folder), dict(scenario.expected)
        for path in re.findall(r"^(.*\.png): cannot be (?:drawn|written)", shown, re.MULTILINE):
            name = str(Path(path).relative_to(run.folder))
            found.pop(name, None)
            expected.pop(name)
        assert not differences(expected, found), what
