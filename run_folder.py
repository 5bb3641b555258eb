"""The run's folder: the one place that writes files, and reads them back when a run goes on."""

import csv
import fcntl
import hashlib
import io
import logging
import logging.handlers
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import yaml
from tqdm import tqdm

import contact_sheet
import plot
import results
from command_line import Run
from configuration import InputError
from datasets import Dataset
from image_files import progress
from results import DIAGNOSTICS, Row
from samplers import Query
from utils import device_name, is_out_of_memory

log = logging.getLogger("tod")

# In the order in which they go: without its configuration, nothing else may be gone on from.
CONTENTS = (
    *("progress", "results.csv", "learning_curve.png", "queries", "weights", "tensorboard"),
    *("log.txt", "config.yaml"),
)
TO_THE_END = 0
"""The length of a lock on all bytes from its first one on."""
DIGEST_BYTES = hashlib.blake2b().digest_size
RESULT_COLUMNS = (
    *("trial", "cycle", "num_labeled", "test_accuracy", "train_loss", "train_seconds"),
    *DIAGNOSTICS,
)


@contextmanager
def atomic_file(path: Path, spare: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that is, whatever happens, the old one or the new one, never a part of it.

    Args:
        path: the file; its folder is made where there is none.
        spare: where the old file goes, if it is to be kept.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if spare is not None and path.exists():
                path.replace(spare)
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); what was saved before is intact: "
            "mend this and run the same command again"
        ) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes all of a file as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


def _sync_folder(folder: Path) -> None:
    """A rename outlives a power cut only once its folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunFolder:
    """`OUTPUT_DIR/CONFIG_auxiliary_A_sampling_S_seedN/`, each trial held by one process at a time.

    Opening it writes nothing; `start` makes it, or empties it where the run is to overwrite it.

    Raises:
        InputError: another process works on a trial, or the folder holds another run's results.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.path = run.folder
        self.has_ended_the_run = False
        """Whether this process has written the last row that the run lacked."""
        self._lock: io.TextIOBase | None = None
        self._format: logging.Formatter | None = None

    def __enter__(self) -> "RunFolder":
        self._log_memory = logging.handlers.MemoryHandler(capacity=1000, flushLevel=100)
        self._terminal = _TerminalHandler()
        if self.run.world_size > 1:
            self._format = logging.Formatter(f"[rank {self.run.rank}] %(message)s")
        self._terminal.setFormatter(self._format)
        if self.run.quiet:
            self._terminal.setLevel(logging.WARNING)
        self._log_before = (log.handlers, log.level, log.propagate, progress.level)
        progress.setLevel(logging.WARNING if self.run.quiet else logging.INFO)
        log.handlers = [self._terminal, self._log_memory]
        log.setLevel(logging.INFO)
        log.propagate = False
        with ExitStack() as unless_refused:
            unless_refused.push(self)
            if self.path.exists():
                try:
                    self._lock_trials()
                except OSError as error:
                    raise self._unwritable(error) from None
                self._refuse_what_is_there()
            unless_refused.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        for handler in log.handlers:
            # What a full disk has no room for is said where the results are written.
            with suppress(OSError):
                handler.close()
        log.handlers, level, log.propagate, progress_level = self._log_before
        log.setLevel(level)
        progress.setLevel(progress_level)
        if self._lock is not None:
            self._lock.close()

    def start(self, device: torch.device, precision: str, dataset: Dataset) -> None:
        """Makes the folder ready for results.

        Raises:
            InputError: it cannot be written to, or its results come from other images or another
                precision.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                # Another run may have come and gone while this one read its data.
                self._lock_trials()
                self._refuse_what_is_there()
            if self.run.empties_folder:
                self._clear()
                self._leave_other_trials()
            log_file = _LogFile(self.path / "log.txt", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from None
        log_file.setFormatter(self._format)
        # What was logged before there was a file goes into it now.
        self._log_memory.setTarget(log_file)
        self._log_memory.close()
        log.handlers = [self._terminal, log_file]
        surroundings = {
            "class_names": list(dataset.class_names),
            "mean": [round(value, 6) for value in dataset.mean.tolist()],
            "std": [round(value, 6) for value in dataset.std.tolist()],
            "data": dataset.fingerprint(),
            "training_images": len(dataset.train),
            "device": device_name(device),
            "precision": precision,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        }
        with self._shared_files():
            if (self.path / "config.yaml").exists():
                self.refuse_other_images(dataset)
                self._compare_surroundings(surroundings)
            else:
                self._write_config(surroundings)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot be written ({error.strerror}); "
            "name another place with --output-dir"
        )

    def _lock_trials(self) -> None:
        """Keeps other processes from this one's trials, or from all where they are to go.

        The locks are on bytes of one file, byte T for trial T and byte 0 for the files that the
        trials share; they go when their process does, however that ends.
        """
        self._lock = (self.path / ".lock").open("w")
        ranges = [(1, TO_THE_END)] if self.run.empties_folder else [(t, 1) for t in self.run.trials]
        try:
            for first, length in ranges:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, length, first)
        except (BlockingIOError, PermissionError):
            raise InputError(
                f"{self.path}: is in use by another process; wait for it, "
                "or name another place with --output-dir"
            ) from None
        except OSError as error:
            if self.run.world_size > 1:
                raise InputError(
                    f"{self.path}: cannot be locked ({error.strerror}), without which ranks would "
                    "overwrite each other's results; name another place with --output-dir"
                ) from None
            log.warning("%s: cannot be locked (%s); start no second run on it", self.path, error)

    def _leave_other_trials(self) -> None:
        """Lets other processes work on the trials that are not this one's."""
        with suppress(OSError):
            fcntl.lockf(self._lock, fcntl.LOCK_UN, TO_THE_END, max(self.run.trials, default=0) + 1)
            for trial in range(1, max(self.run.trials, default=0)):
                if trial not in self.run.trials:
                    fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, trial)

    @contextmanager
    def _shared_files(self) -> Iterator[None]:
        """For a moment, keeps other processes from changing what belongs to no single trial."""
        # Where locks do not work, this was said at the start.
        with suppress(OSError):
            fcntl.lockf(self._lock, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, 0)

    def _clear(self) -> None:
        for name in CONTENTS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _identity(self) -> dict[str, Any]:
        """All that makes two runs the same, but for the images themselves."""
        run = self.run
        choices = {
            "entry": run.entry,
            "sampling": run.sampling,
            "auxiliary": run.auxiliary,
            "seed": run.seed,
            "deterministic": run.deterministic,
        }
        return {**run.config.as_dict(), "run": choices}

    def _refuse_what_is_there(self) -> None:
        if self.run.empties_folder:
            self._refuse_to_remove_other_trials()
        else:
            self._refuse_another_run()

    def _refuse_another_run(self) -> None:
        path, wanted = self.path / "config.yaml", self._identity()
        if not path.exists():
            if any((self.path / name).exists() for name in ("progress", "results.csv")):
                raise self._unreadable_config()
            return
        found = self._read_config()
        found["run"] = {key: found["run"].get(key) for key in wanted["run"]}
        # Images may move; that they are the same is seen once they have been read.
        found["data_dir"] = wanted["data_dir"]
        difference = first_difference(found, wanted)
        if difference is not None:
            raise InputError(
                f"{self.path}: holds a run with another {difference}; "
                "name another place with --output-dir, or start afresh with --overwrite"
            )

    def _refuse_to_remove_other_trials(self) -> None:
        if len(self.run.chosen_trials) == self.run.config.active_learning.trials:
            return
        begun = {path.name.split(".")[0] for path in self.path.glob("progress/trial*.pt")}
        with suppress(OSError, ValueError):
            rows = results.read_rows(self.path / "results.csv")
            begun |= {f"trial{row['trial']}" for row in rows}
        if not begun <= {f"trial{trial}" for trial in self.run.chosen_trials}:
            raise InputError(
                f"{self.path}: --overwrite would remove its other trials too; leave out --trials "
                "to start all of them afresh, or name another place with --output-dir"
            )

    def names_other_data(self) -> bool:
        """Whether the images come from elsewhere than the run's did, and may be others."""
        return self._read_config().get("data_dir") != self.run.config.data_dir

    def refuse_other_images(self, dataset: Dataset) -> None:
        """Refuses a dataset that is not the run's.

        Raises:
            InputError: it is not.
        """
        if self._read_config()["run"].get("data") != dataset.fingerprint():
            raise InputError(
                f"{self.path}: its results come from other images than are there now; "
                "name another place with --output-dir, or start afresh with --overwrite"
            )

    def _read_config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            raise self._unreadable_config() from None
        if not isinstance(found, dict) or not isinstance(found.get("run"), dict):
            raise self._unreadable_config()
        return found

    def _unreadable_config(self) -> InputError:
        return InputError(
            f"{self.path / 'config.yaml'}: cannot be read back; --overwrite starts the run afresh"
        )

    def _compare_surroundings(self, surroundings: dict[str, Any]) -> None:
        found = self._read_config()["run"]
        if found.get("precision") != surroundings["precision"]:
            raise InputError(
                f"{self.path}: its networks were trained in {found.get('precision')}, which "
                f"--precision chooses, not in {surroundings['precision']}; "
                "name another place with --output-dir, or start afresh with --overwrite"
            )
        for name in ("device", "python", "torch"):
            if found.get(name) != surroundings[name]:
                log.warning(
                    "the run began with %s %s and goes on with %s: "
                    "its numbers may differ from an uninterrupted run's",
                    name,
                    found.get(name),
                    surroundings[name],
                )

    def _write_config(self, surroundings: dict[str, Any]) -> None:
        content = self._identity()
        content["run"] |= surroundings
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        write_atomically(self.path / "config.yaml", text.encode())

    def rows(self) -> list[Row]:
        """The rows of `results.csv`, none where there is no such file yet."""
        path = self.path / "results.csv"
        if not path.exists():
            return []
        try:
            return results.read_rows(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read back ({error}); --overwrite starts the run afresh"
            ) from None

    def unfinished_trials(self) -> list[int]:
        """This process's trials whose last cycle has no results, or none that are to stay."""
        finished = set() if self.run.empties_folder else self._finished_trials(self.rows())
        return [trial for trial in self.run.trials if trial not in finished]

    def is_finished(self) -> bool:
        """Whether all trials, also those of other processes, have their last cycle's results."""
        return self._end_all_trials(self.rows())

    def _end_all_trials(self, rows: Sequence[Row]) -> bool:
        return len(self._finished_trials(rows)) == self.run.config.active_learning.trials

    def _finished_trials(self, rows: Sequence[Row]) -> set[int]:
        last = str(self.run.config.active_learning.cycles)
        return {int(row["trial"]) for row in rows if row["cycle"] == last}

    def write_row(self, row: Row) -> None:
        """Adds a cycle's row to `results.csv`; what is there of it or of later cycles goes.

        A cell is empty where its row has no such column.
        """
        place = (int(row["trial"]), int(row["cycle"]))
        with self._shared_files():
            kept = [
                other
                for other in self.rows()
                if int(other["trial"]) != place[0] or int(other["cycle"]) < place[1]
            ]
            rows = sorted([*kept, row], key=lambda r: (int(r["trial"]), int(r["cycle"])))
            write_atomically(self.path / "results.csv", _csv(RESULT_COLUMNS, rows))
            self.has_ended_the_run = self._end_all_trials(rows)

    def finish_trial(self, trial: int) -> None:
        """Ends a trial whose last row is written, unless that was done: a kill may come between."""
        states = [path for path in self._progress_files(trial) if path.exists()]
        if states:
            self.write_learning_curve()
        for path in states:
            path.unlink()

    def write_learning_curve(self) -> None:
        """Draws `learning_curve.png` from `results.csv`."""
        with self._shared_files():
            _write_picture(
                self.path / "learning_curve.png",
                lambda: plot.rendered(plot.learning_curves([results.read_run(self.path)])),
            )

    def write_queries(
        self, trial: int, cycle: int, subset: np.ndarray, query: Query, dataset: Dataset
    ) -> None:
        """Writes what was queried after a cycle, in the order queried, and its contact sheet."""
        score_of = dict(zip(subset.tolist(), query.scores.tolist(), strict=True))
        rows = []
        for index in query.indices.tolist():
            label = int(dataset.train.labels[index])
            row = {
                "index": index,
                "score": repr(score_of[index]),
                "label": label,
                "class": dataset.class_names[label],
            }
            if dataset.train.names is not None:
                row["file"] = dataset.train.names[index]
            rows.append(row)
        path = self.path / "queries" / f"trial{trial}_cycle{cycle}.csv"
        write_atomically(path, _csv(tuple(rows[0]), rows))
        _write_picture(
            path.with_suffix(".png"),
            lambda: contact_sheet.of_query(subset, query.scores, query.indices, dataset),
        )

    def write_weights(self, trial: int, cycle: int, networks: dict[str, torch.nn.Module]) -> None:
        """Writes a cycle's published checkpoint: `cycle`, and `state_dict_NAME` of each network."""
        checkpoint = {"cycle": cycle}
        for name, network in networks.items():
            state = network.state_dict()
            # For machines without this one's GPU.
            checkpoint[f"state_dict_{name}"] = {key: state[key].cpu() for key in state}
        path = self.path / "weights" / f"trial{trial}_cycle{cycle}.pth"
        with atomic_file(path) as file:
            _torch_save(checkpoint, file)
        if self.run.keep_weights == "last":
            for earlier in range(1, cycle):
                (path.parent / f"trial{trial}_cycle{earlier}.pth").unlink(missing_ok=True)

    def _progress_files(self, trial: int) -> tuple[Path, Path]:
        """A trial's last saved state, and the one before it."""
        folder = self.path / "progress"
        return folder / f"trial{trial}.pt", folder / f"trial{trial}.before.pt"

    def save_progress(self, trial: int, state: dict[str, Any]) -> None:
        """Saves a trial's state; the one saved before is kept as a spare."""
        newest, spare = self._progress_files(trial)
        with atomic_file(newest, spare) as file:
            file.write(_torch_save(state, file))

    def load_progress(self, trial: int, device: torch.device) -> dict[str, Any] | None:
        """The trial's state as last saved; None where there is none to go on from."""
        for path in self._progress_files(trial):
            if not path.exists():
                continue
            try:
                _check_digest(path)
                # Mapped, the state takes no memory beside the networks that it goes into.
                return torch.load(path, map_location=device, weights_only=True, mmap=True)
            # Whatever is wrong with the newest state, the one before it may be good.
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                log.warning("%s: is damaged (%s); using what was saved before", path, error)
                # It must not become the spare of the next state.
                path.unlink()
        return None

    def log_table(self) -> None:
        """Shows the accuracy by number of labels, over the trials that there are."""
        log.info("labels  test accuracy in % (mean ± standard deviation over trials)")
        for num_labeled, values in results.by_num_labeled(self.rows()).items():
            mean, std, count = results.summarize(values)
            deviation = "" if std is None else f"± {std:.2f}"
            log.info("%6d  %.2f %s (%d)", num_labeled, mean, deviation, count)


class _TerminalHandler(logging.Handler):
    """Writes to standard output without tearing the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record))
            sys.stdout.flush()
        except OSError:
            # Nobody reads on, or there is no room: log.txt and the results go on without it.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123


class _LogFile(logging.FileHandler):
    """A log that cannot be written must not stop the run, whose results say so themselves."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def first_difference(found: dict, wanted: dict, prefix: str = "") -> str | None:
    """Names the first value that differs, or None."""
    for key in [*wanted, *(k for k in found if k not in wanted)]:
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            nested = first_difference(a, b, f"{prefix}{key}.")
            if nested is not None:
                return nested
        elif a != b:
            return f"{prefix}{key} ({a} there, {b} here)"
    return None


def _write_picture(path: Path, draw: Callable[[], bytes]) -> None:
    """Writes a picture; one that cannot be drawn must not stop the run, which goes on without."""
    try:
        content = draw()
    except Exception as error:
        log.warning("%s: cannot be drawn (%s)", path, error)
        return
    write_atomically(path, content)


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


class _HashedFile(io.RawIOBase):
    """A file to write, with the digest of what is written and the first error in writing.

    `torch.save` would answer an error with another one, of its own.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.blake2b()
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(content)
            except OSError as error:
                self.error = error
        self.digest.update(content)
        return len(content)


def _torch_save(content: dict[str, Any], file: BinaryIO) -> bytes:
    """Writes a checkpoint as it is made, without a copy in memory; gives its digest."""
    hashed = _HashedFile(file)
    torch.save(content, hashed)
    if hashed.error is not None:
        raise hashed.error
    return hashed.digest.digest()


def _check_digest(path: Path) -> None:
    """Makes sure that a file ends with the digest of all that is before it."""
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        left = path.stat().st_size - DIGEST_BYTES
        while content := file.read(min(max(left, 0), 2**20)):
            digest.update(content)
            left -= len(content)
        if file.read() != digest.digest():
            raise ValueError("its checksum is wrong")
