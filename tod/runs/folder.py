"""A run's folder: whose it is, and the files in it that all trials share."""

import errno
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tod.analysis import results
from tod.config import InputError, read_run
from tod.config.identity import Identity
from tod.config.settings import as_yaml, flat
from tod.system.files import InUseError, as_csv, locked, reason, remove, write_atomically

log = logging.getLogger("tod")

# In the order in which they go: without its configuration, nothing else may be gone on from.
CONTENTS = (
    "progress results.csv learning_curve.png unreadable.csv queries confusion predictions weights "
    "tensorboard log.txt config.yaml"
)
START_AFRESH = "mend it, or start the run afresh with --overwrite"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
ANOTHER_PLACE = "name another place with --output-dir, or start afresh with --overwrite"


class RunFolder:
    """`OUTPUT_DIR/CONFIG_auxiliary_A_sampling_S_seedN/`, each trial held by one process at a time.

    Args:
        path: the folder; nothing is made before `open`.
        identity: of the run.
        trials: those that this process runs.
        chosen: those that all processes of the command run.
        overwrite: whether this process starts them afresh.
        advice: what to do where the folder holds another run.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        trials: Sequence[int],
        chosen: Sequence[int],
        overwrite: bool = False,
        advice: str = ANOTHER_PLACE,
    ) -> None:
        self.path = path
        self.identity = identity
        self.trials = trials
        self.chosen = chosen
        self.overwrite = overwrite
        self.advice = advice
        self.num_trials = identity.config.active_learning.trials
        self._locks = ExitStack()
        self._locks_of_others = ExitStack()
        self._is_claimed = False
        self._is_new = False

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_new and [path.name for path in self.path.iterdir()] == [".locks"]:
            remove(self.path)  # nothing has come of it
        self._locks.close()
        self._locks_of_others.close()

    def claim(self, makes_it: bool = False) -> None:
        """Takes the trials, where the folder is there; it changes nothing in it.

        Args:
            makes_it: make the folder, if it is not there; it goes again if nothing is written.

        Raises:
            InputError: another process works on one of them, or the folder holds another run's
                results, or cannot be written to.
        """
        if self._is_claimed:
            return
        is_new = not self.path.exists()
        if is_new and not makes_it:
            return
        if is_new:
            self._make()
        self._is_claimed = True
        own = {f"trial{trial}" for trial in self.trials}
        self._lock(own, self._locks)
        self._is_new = is_new  # and not another process's
        if self.overwrite:
            # A run of more trials may have begun there.
            begun = {path.name for path in self.path.glob(".locks/trial*")}
            configured = {f"trial{trial}" for trial in range(1, self.num_trials + 1)}
            self._lock((begun | configured) - own, self._locks_of_others)
            self._refuse_to_remove_other_trials()
        else:
            self._refuse_another_run()

    def open(self, environment: dict[str, Any]) -> None:
        """Makes the folder ready for results, and empties it where the run is to overwrite it.

        Args:
            environment: what the run has found: class names, statistics and fingerprint of the
                images, device, precision, versions.

        Raises:
            InputError: as `claim`; or the run has begun with other images or in another precision.
        """
        self._make()
        self.claim()
        if self.overwrite:
            for name in CONTENTS.split():
                if not remove(self.path / name):
                    raise InputError(f"{self.path / name}: must go; remove it and try again")
            self.overwrite = False  # what comes now stays
            self._locks_of_others.close()
        with self.shared_files():
            if (self.path / "config.yaml").exists():
                self._compare(environment)
            else:
                content = self.identity.as_dict()
                content["run"] |= environment
                write_atomically(self.path / "config.yaml", as_yaml(content))

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _lock(self, names: Iterable[str], held: ExitStack) -> None:
        try:
            (self.path / ".locks").mkdir(exist_ok=True)
            for name in names:
                held.enter_context(locked(self.path / ".locks" / name, wait=False))
        except InUseError:
            raise InputError(
                f"{self.path}: is in use by another process; wait for it, "
                "or name another place with --output-dir"
            ) from None
        except OSError as error:
            self._go_without_locks(error)

    def _go_without_locks(self, error: OSError) -> None:
        """Warns where one process alone can do without, as on a file system that has none."""
        if error.errno not in NO_LOCKS or len(self.trials) < len(self.chosen):
            raise self._unwritable(error) from None
        log.warning(f"{self.path}: cannot be locked ({reason(error)}); start no second run on it")

    @contextmanager
    def shared_files(self) -> Iterator[None]:
        """For a moment, keeps other processes from changing what belongs to no single trial.

        Raises:
            InputError: the folder cannot be written to.
        """
        with ExitStack() as lock:
            try:
                lock.enter_context(locked(self.path / ".locks" / "shared"))
            except OSError as error:
                self._go_without_locks(error)
            yield

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot be written ({reason(error)}); "
            "name another place with --output-dir"
        )

    def _refuse_another_run(self) -> None:
        if any((self.path / name).exists() for name in ("config.yaml", "progress", "results.csv")):
            found, wanted = self.recorded(), self.identity.as_dict()
            found["run"] = {key: found["run"].get(key) for key in wanted["run"]}
            # Images may move; that they are the same is seen once they have been read.
            found["data_dir"] = wanted["data_dir"]
            self._refuse_differences(flat(found), flat(wanted))

    def _refuse_differences(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        for key in {**wanted, **found}:
            if found.get(key) != wanted.get(key):
                raise InputError(
                    f"{self.path}: holds a run with another {key} "
                    f"({found.get(key)} there, {wanted.get(key)} here); {self.advice}"
                )

    def _refuse_to_remove_other_trials(self) -> None:
        if len(self.chosen) == self.num_trials:
            return
        begun = {path.name.split(".")[0] for path in self.path.glob("progress/trial*.pt")}
        try:
            begun |= {
                f"trial{trial}" for trial in results.read_rows(self.path / "results.csv").trial
            }
        except (FileNotFoundError, ValueError):
            pass  # what is damaged is no result that would be lost
        except OSError as error:
            raise self._unwritable(error) from None
        if not begun <= {f"trial{trial}" for trial in self.chosen}:
            raise InputError(
                f"{self.path}: --overwrite would remove its other trials too; leave out --trials "
                "to start all of them afresh, or name another place with --output-dir"
            )

    def refuse_other_images(self, fingerprint: str) -> None:
        """Refuses a dataset that is not the run's.

        Raises:
            InputError: it is not.
        """
        if self.recorded()["run"].get("data") != fingerprint:
            raise InputError(
                f"{self.path}: its results come from other images than are there now; {self.advice}"
            )

    def _compare(self, environment: dict[str, Any]) -> None:
        self.refuse_other_images(environment["data"])
        found = self.recorded()["run"]
        precision = {"precision": found.get("precision")}
        self._refuse_differences(precision, {"precision": environment["precision"]})
        found = {"ranks": 1, **found}  # as in earlier versions
        for name in ("device", "ranks", "python", "torch"):
            if found.get(name) != environment[name]:
                log.warning(
                    f"the run began with {name} {found.get(name)} and goes on with "
                    f"{environment[name]}: its numbers may differ from an uninterrupted run's"
                )

    def recorded(self) -> dict[str, Any]:
        """What `config.yaml` says of the run.

        Raises:
            InputError: it cannot be read back.
        """
        return read_run(self.path, START_AFRESH)

    def precision(self, asked: str) -> str:
        """What to train in: with `auto`, that in which the run has begun, where it has.

        Raises:
            InputError: `config.yaml` cannot be read back.
        """
        return asked if asked != "auto" else self.begun().get("precision", asked)

    def begun(self) -> dict[str, Any]:
        """What the run has recorded of itself; nothing, where it is to start.

        Raises:
            InputError: `config.yaml` cannot be read back.
        """
        if self.overwrite or not (self.path / "config.yaml").exists():
            return {}
        return self.recorded()["run"]

    def rows(self) -> pd.DataFrame:
        """The rows of `results.csv`, as text; none where there is no such file yet.

        Raises:
            InputError: the file cannot be read back.
        """
        path = self.path / "results.csv"
        if not path.exists():
            return pd.DataFrame(columns=results.COLUMNS, dtype=str)
        try:
            return results.read_rows(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read back ({reason(error)}); {START_AFRESH}"
            ) from None

    def unfinished_trials(self) -> list[int]:
        """This process's trials whose last cycle has no results, or none that are to stay."""
        finished = set() if self.overwrite else self._finished(self.rows())
        return [trial for trial in self.trials if trial not in finished]

    def is_finished(self) -> bool:
        """Whether all trials, also those of other processes, have their last cycle's results."""
        return len(self._finished(self.rows())) == self.num_trials

    def _finished(self, rows: pd.DataFrame) -> set[int]:
        last = str(self.identity.config.active_learning.cycles)
        return {*rows.loc[rows["cycle"] == last, "trial"].astype(int)}

    def write_row(self, row: dict[str, str]) -> bool:
        """Adds a cycle's row to `results.csv`; what is there of it or of later cycles goes.

        A cell is empty where its row has no such column.

        Returns:
            Whether all trials of the run are finished with it.
        """
        with self.shared_files():
            rows = self.rows()
            earlier = rows["cycle"].astype(int) < int(row["cycle"])
            rows = pd.concat([rows[(rows["trial"] != row["trial"]) | earlier], pd.DataFrame([row])])
            further = [column for column in rows if column not in results.COLUMNS]
            rows = rows.reindex(columns=[*results.COLUMNS, *further]).fillna("")
            rows = rows.sort_values(["trial", "cycle"], key=lambda numbers: numbers.astype(int))
            write_atomically(self.path / "results.csv", as_csv(rows))
        return len(self._finished(rows)) == self.num_trials
