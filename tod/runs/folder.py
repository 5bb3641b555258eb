"""A run's folder: its owner, its content, and a table for each trial, with one writer."""

import errno
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import Timeout

from tod.analysis import results
from tod.config import InputError, read_run
from tod.config.identity import Identity
from tod.config.settings import as_yaml, flat
from tod.system.files import (
    as_csv,
    cannot,
    locked,
    refuse_unwritable,
    remove,
    write_atomically,
)

log = logging.getLogger("tod")

# In the order of their removal: last the configuration, without which no run can resume.
CONTENTS = (
    "progress trials results.csv learning_curve.png unreadable.csv queries confusion predictions "
    "weights tensorboard log.txt config.yaml"
)
OF_PEOPLE = (
    "labels.csv disagreements.csv set_aside.csv labels.copy.csv disagreements.copy.csv "
    "set_aside.copy.csv pool.csv suspects.csv batches"
)
"""What else there is where people label; nothing ever removes it."""
TARGET = "target_accuracy"
"""Of the section `active_learning`: may change between the commands of a run."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
ANOTHER_PLACE = "name another place with --output-dir"
ALL_TRIALS = f"leave out --trials to start all of them afresh, or {ANOTHER_PLACE}"


def refuse_output(path: Path) -> None:
    """Refuses an output that would lie among a run's own files, or that cannot be written."""
    own, whole = {*CONTENTS.split(), *OF_PEOPLE.split()}, path.resolve()
    for each in (whole, *whole.parents):
        if each.name in own and (each.parent / "config.yaml").exists():
            raise InputError(f"{path}: is the run's own place; name another one with --output")
    refuse_unwritable(path)


@dataclass
class RunFolder:
    """`OUTPUT_DIR/CONFIG_auxiliary_A_sampling_S_seedN/`; one process at a time holds a trial.

    The holder of a trial writes its table, `trials/trialT.csv`; `results.csv` joins all tables.
    """

    path: Path
    identity: Identity
    trials: Sequence[int]  # those that this process runs
    chosen: Sequence[int]  # those that all processes of the command run
    overwrite: bool = False  # this process starts the chosen ones afresh
    advice: str = (
        f"{ANOTHER_PLACE}, or start afresh with --overwrite"  # for a folder of another run
    )
    afresh: str = "start the run afresh with --overwrite"  # where a file of the run is damaged

    def __post_init__(self) -> None:
        self._locks, self._locks_while_emptied = ExitStack(), ExitStack()
        self._made: list[Path] = []  # the folders that it has made, innermost first
        self._can_lock = True  # until a lock fails
        self._all_goes = False  # nothing in the folder stays: it may be another run's

    @property
    def num_trials(self) -> int:
        """The number of trials of the run."""
        return self.identity.config.active_learning.trials

    @property
    def mark(self) -> str:
        """Distinguishes this process's unfinished files from others': a trial that it holds."""
        return f".trial{self.trials[0]}" if self.trials else ""

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._made and self._holds_only_own_locks():
            remove(self._made.pop(0))  # nothing was written
            with suppress(OSError):
                for folder in self._made:
                    folder.rmdir()
        self._locks.close()
        self._locks_while_emptied.close()

    def _holds_only_own_locks(self) -> bool:
        there = {str(path.relative_to(self.path)) for path in self.path.rglob("*")}
        own = {f".locks/trial{trial}" for trial in (*self.trials, *self.chosen)}
        return there <= {".locks", ".locks/config.yaml", *own}

    def claim(self) -> None:
        """Locks the trials; changes nothing in the folder but `results.csv`.

        It makes a missing folder, which is removed again if nothing is written. InputError if
        another process works on one of the trials, if the folder holds another run's results, or
        if it cannot be written to.
        """
        made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        own = {f"trial{trial}" for trial in self.trials}
        self._lock(own, self._locks)
        self._made = made  # by this process, not another one
        if self.overwrite:
            wanted, chosen = {f"trial{trial}" for trial in self.chosen}, {*self.chosen}
            self._all_goes = len(chosen) == self.num_trials or self._begun_trials() <= chosen
            if self._all_goes:  # a run of more trials may have begun there
                wanted = {f"trial{trial}" for trial in range(1, self.num_trials + 1)}
                wanted |= {path.name for path in self.path.glob(".locks/trial*")}
            else:
                self.advice = ALL_TRIALS
            self._lock(wanted - own, self._locks_while_emptied)
        if not self._all_goes:
            self._refuse_another_run()
            # A kill may have prevented this.
            if self.trials and (self.path / "trials").exists():
                self._write_results()

    def _lock(self, names: Iterable[str], held: ExitStack, wait: bool = False) -> None:
        try:
            (self.path / ".locks").mkdir(parents=True, exist_ok=True)
            for name in names:
                held.enter_context(locked(self.path / ".locks" / name, wait))
        except Timeout:
            words = "is in use by another process; wait for it, or"
            raise InputError(f"{self.path}: {words} {ANOTHER_PLACE}") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise cannot(self.path, "written", error, ANOTHER_PLACE) from None
            if self._can_lock:
                log.warning(cannot(self.path, "locked", error, "start no second run on it"))
            self._can_lock = False

    @contextmanager
    def _others_wait(self) -> Iterator[None]:
        """Holds the lock of the files that all processes write."""
        with ExitStack() as held:
            self._lock(["config.yaml"], held, wait=True)
            yield

    def _begun_trials(self) -> set[int]:
        """The trials that have a saved state or results."""
        states = [path.name.split(".")[0] for path in self.path.glob("progress/trial*.pt")]
        return {int(t) for t in [*self.rows()["trial"], *(s.removeprefix("trial") for s in states)]}

    def open(self, environment: dict[str, Any]) -> None:
        """Makes the claimed folder ready for results, and removes those to be overwritten.

        `environment` is recorded in `config.yaml`: class names, statistics and fingerprint of the
        images, device, precision, versions. InputError if the run has begun with other images or in
        another precision, or if the folder cannot be written to.
        """
        if self._all_goes:
            self._empty()
        recorded, content = self.path / "config.yaml", self.identity.as_dict()
        content["run"] |= environment
        with self._others_wait():  # the first process writes it
            if not recorded.exists():
                write_atomically(recorded, as_yaml(content))
        self._compare(environment)  # another process may have written it
        if self.overwrite:
            self._empty()
            self._write_results()
        self._locks_while_emptied.close()

    def _empty(self) -> None:
        """Removes the run's results, or if other trials have begun, those of the chosen trials."""
        of_chosen = re.compile(rf"trial({'|'.join(map(str, self.chosen))})([._].*)?")
        for path in (self.path / name for name in CONTENTS.split()):
            files = [path]
            if not self._all_goes:
                files = [file for file in path.glob("trial*") if of_chosen.fullmatch(file.name)]
            for file in files:
                if not remove(file):
                    raise InputError(f"{file}: must go; remove it and try again")
            if path.name == "trials" and not self._all_goes:
                for trial in self.chosen:  # or its rows in results.csv would count
                    write_atomically(self._table(trial), as_csv(_in_order()))
        self.overwrite = self._all_goes = False  # new results stay

    def _refuse_another_run(self) -> None:
        names = ("config.yaml", "progress", "trials", "results.csv")
        if any((self.path / name).exists() for name in names):
            found, wanted = self.recorded(), self.identity.as_dict()
            found["run"] = {key: found["run"].get(key) for key in wanted["run"]}
            found, wanted = flat(found), flat(wanted)
            # Images may move; whether they are the same is known once they are read.
            for key in ("data_dir", f"active_learning.{TARGET}"):
                found[key] = wanted[key]
            self._refuse_differences(found, wanted)

    def _refuse_differences(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        for key in {**wanted, **found}:
            if found.get(key) != wanted.get(key):
                raise InputError(
                    f"{self.path}: holds a run with another {key} "
                    f"({found.get(key)} there, {wanted.get(key)} here); {self.advice}"
                )

    def refuse_other_images(self, fingerprint: str) -> None:
        """Refuses a dataset other than the run's."""
        if self.recorded()["run"].get("data") != fingerprint:
            raise InputError(
                f"{self.path}: its results come from other images than are there now; {self.advice}"
            )

    def _compare(self, environment: dict[str, Any]) -> None:
        self.refuse_other_images(environment["data"])
        found = {"ranks": 1, **self.recorded()["run"]}  # as in earlier versions
        self._refuse_differences(*({"precision": e.get("precision")} for e in (found, environment)))
        for name in ("device", "ranks", "python", "torch"):
            if found.get(name) != environment[name]:
                log.warning(
                    f"the run began with {name} {found.get(name)} and goes on with "
                    f"{environment[name]}: its numbers may differ from an uninterrupted run's"
                )

    def recorded(self) -> dict[str, Any]:
        """The run's `config.yaml`, as `read_run` returns it."""
        return read_run(self.path, f"mend it, or {self.afresh}")

    def record_target(self) -> None:
        """Records the target of a run that has begun, for later commands, where it is another."""
        if not self.begun():
            return
        content, target = self.recorded(), getattr(self.identity.config.active_learning, TARGET)
        if content["active_learning"][TARGET] != target:
            content["active_learning"][TARGET] = target
            content["run"]["settings"] = [*self.identity.settings]
            write_atomically(self.path / "config.yaml", as_yaml(content))

    def begun(self) -> dict[str, Any]:
        """The section `run` of `config.yaml`; empty if the run starts now."""
        is_there = (self.path / "config.yaml").exists() and not self._all_goes
        return self.recorded()["run"] if is_there else {}

    def rows(self) -> pd.DataFrame:
        """The rows of all trials, as text; InputError if a table cannot be read back.

        An earlier version wrote only `results.csv`, which has the rows of trials without a table.
        """
        paths = [*self.path.glob("trials/trial*.csv")]
        earlier = self._read(self.path / "results.csv")
        has_table = earlier["trial"].isin([path.stem.removeprefix("trial") for path in paths])
        return _in_order(earlier[~has_table], *map(self._read, paths))

    def _read(self, path: Path) -> pd.DataFrame:
        try:
            return results.read_rows(path) if path.exists() else _in_order()
        except (OSError, ValueError) as error:
            raise cannot(path, "read back", error, f"mend it, or {self.afresh}") from None

    def refuse_without_state(self, trial: int) -> None:
        """Refuses to begin a trial that has results: without a saved state it would lose them."""
        if (self.rows()["trial"] == str(trial)).any():
            alone = f"--overwrite --trials {trial}" if self.num_trials > 1 else "--overwrite"
            raise InputError(
                f"{self.path}: trial {trial} has results, but no sound state to go on from; bring "
                f"back progress/trial{trial}.pt, or {self.afresh.replace('--overwrite', alone)}"
            )

    def _table(self, trial: int | str) -> Path:
        return self.path / "trials" / f"trial{trial}.csv"

    def unfinished_trials(self) -> list[int]:
        """This process's trials whose last cycle has no results, or only some to be overwritten."""
        finished = set() if self.overwrite else self._finished(self.rows())
        return [trial for trial in self.trials if trial not in finished]

    def is_finished(self) -> bool:
        """Whether all trials, including those of other processes, have ended."""
        return len(self._finished(self.rows())) == self.num_trials

    def _finished(self, rows: pd.DataFrame) -> set[int]:
        last = str(self.identity.config.active_learning.cycles)
        return {*rows.loc[rows["cycle"] == last, "trial"].astype(int)}

    def write_row(self, row: dict[str, str]) -> bool:
        """Adds a cycle's row to its trial's table, and removes rows of this and later cycles.

        Returns:
            Whether this row finishes the run: of several processes, one gets True.
        """
        rows = self.rows()
        is_earlier = rows["cycle"].astype(int) < int(row["cycle"])
        of_trial = rows[is_earlier & (rows["trial"] == row["trial"])]
        table = _in_order(of_trial, pd.DataFrame([row]))
        with self._others_wait():
            write_atomically(self._table(row["trial"]), as_csv(table))
            return len(self._finished(self._write_results())) == self.num_trials

    def _write_results(self) -> pd.DataFrame:
        """Writes `results.csv` until it holds the rows of all tables.

        Without locks, processes may write it at the same time; the last one has read all tables.
        """
        path = self.path / "results.csv"
        rows = self.rows()
        while as_csv(self._read(path)) != as_csv(rows):
            write_atomically(path, as_csv(rows), self.mark)
            rows = self.rows()
        return rows


def _in_order(*tables: pd.DataFrame) -> pd.DataFrame:
    """Their rows by trial and cycle; the columns of `results.csv` come first."""
    rows = pd.concat([pd.DataFrame(columns=results.COLUMNS, dtype=str), *tables])
    rows = rows.fillna("")
    return rows.sort_values(["trial", "cycle"], key=lambda numbers: numbers.astype(int))
