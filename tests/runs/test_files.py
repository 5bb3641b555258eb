"""Files that another program holds, as a spreadsheet on Windows or a network disk does."""

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest

from tod.config import InputError
from tod.system import files
from tod.system.files import atomic_folder, write_atomically


@pytest.mark.parametrize("seconds", [0.2, 1.0, 600.0])
def test_what_is_held_for_a_moment_is_waited_for_and_else_stays_as_it_was(tmp_path, seconds):
    replace, slept = Path.replace, []

    def replace_what_is_free(source: Path, target: Path) -> Path:
        if Path(target).name in ("results.csv", "batch0") and sum(slept) < seconds:
            raise PermissionError(13, "Permission denied")
        return replace(source, target)

    (tmp_path / "results.csv").write_text("old")
    refused = pytest.raises(InputError, match=r"(results\.csv|batch0): cannot be written \(Perm")
    with (
        patch.object(Path, "replace", replace_what_is_free),
        patch.object(files.time, "sleep", slept.append),
    ):
        with refused if seconds > 2 else nullcontext():
            write_atomically(tmp_path / "results.csv", "new")
        assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
        assert min(seconds, 1.5) < sum(slept) < 20
        slept.clear()
        with (
            refused if seconds > 2 else nullcontext(),
            atomic_folder(tmp_path / "batch0") as folder,
        ):
            (folder / "batch.csv").write_text("new")
    found = {path.name: path.read_text() for path in tmp_path.rglob("*.csv")}
    if seconds > 2:
        assert found.pop("results.csv") == "old"
    else:
        assert found == {"results.csv": "new", "batch.csv": "new"}
