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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from command_line import Run
from configuration import InputError
from datasets import Dataset
from diagnostics import DIAGNOSTIC_COLUMNS
from samplers import Query

log = logging.getLogger("tod")

# In the order in which they go: without its configuration, nothing else may be gone on from.
CONTENTS = ("progress", "results.csv", "queries", "weights", "log.txt", "config.yaml")
DIGEST_BYTES = hashlib.blake2b().digest_size
RESULT_COLUMNS = (
    *("trial", "cycle", "num_labeled", "test_accuracy", "train_loss", "train_seconds"),
    *DIAGNOSTIC_COLUMNS,
)
Row = dict[str, str]


def write_atomically(path: Path, content: bytes, spare: Path | None = None) -> None:
    """Writes a file that is, whatever happens, the old one or the new one, never a part of it.

    Args:
        path: the file; its folder is made where there is none.
        content: all of it.
        spare: where the old file goes, if it is to be kept.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if spare is not None and path.exists():
                path.replace(spare)
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); what was saved before is intact: "
            "mend this and run the same command again"
        ) from None


def _sync_folder(folder: Path) -> None:
    """A rename outlives a power cut only once its folder is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunFolder:
    """`OUTPUT_DIR/CONFIG_auxiliary_A_sampling_S_seedN/`, held by one process at a time.

    Opening it writes nothing; `start` makes it, or empties it where the run is to overwrite it.

    Raises:
        InputError: another process uses the folder, or it holds the results of another run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.path = run.folder
        self._lock: io.TextIOBase | None = None

    def __enter__(self) -> "RunFolder":
        self._log_memory = logging.handlers.MemoryHandler(capacity=1000, flushLevel=100)
        self._terminal = _TerminalHandler()
        log.handlers = [self._terminal, self._log_memory]
        log.setLevel(logging.INFO)
        log.propagate = False
        if self.path.exists():
            try:
                self._acquire_lock()
            except OSError as error:
                raise self._unwritable(error) from None
            if not self.run.overwrite:
                self._refuse_another_run()
        return self

    def __exit__(self, *exception: object) -> None:
        for handler in log.handlers:
            # What a full disk has no room for is said where the results are written.
            with suppress(OSError):
                handler.close()
        log.handlers = []
        if self._lock is not None:
            self._lock.close()

    def start(self, device: torch.device, dataset: Dataset) -> None:
        """Makes the folder ready for results.

        Raises:
            InputError: it cannot be written to, or its results come from other images.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                # Another run may have come and gone while this one read its data.
                self._acquire_lock()
                if not self.run.overwrite:
                    self._refuse_another_run()
            if self.run.overwrite:
                self._clear()
            log_file = _LogFile(self.path / "log.txt", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from None
        # What was logged before there was a file goes into it now.
        self._log_memory.setTarget(log_file)
        self._log_memory.close()
        log.handlers = [self._terminal, log_file]
        surroundings = {
            "class_names": list(dataset.class_names),
            "mean": [round(value, 6) for value in dataset.mean.tolist()],
            "std": [round(value, 6) for value in dataset.std.tolist()],
            "data": dataset.fingerprint(),
            "device": device_name(device),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        }
        if (self.path / "config.yaml").exists():
            self._compare_surroundings(surroundings)
        else:
            self._write_config(surroundings)

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(
            f"{self.path}: cannot be written ({error.strerror}); "
            "name another place with --output-dir"
        )

    def _acquire_lock(self) -> None:
        """The lock goes when its process does, however that ends."""
        lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: is in use by another process; wait for it, "
                "or name another place with --output-dir"
            ) from None
        except OSError as error:
            log.warning("%s: cannot be locked (%s); start no second run on it", lock.name, error)
        self._lock = lock

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
        if found.get("data") != surroundings["data"]:
            raise InputError(
                f"{self.path}: its results come from other images than are there now; "
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
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                if not {"trial", "cycle", "num_labeled", "test_accuracy"} <= set(row):
                    raise ValueError("columns are missing")
                int(row["trial"]), int(row["cycle"]), float(row["test_accuracy"])
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path}: cannot be read back ({error}); --overwrite starts the run afresh"
            ) from None
        return rows

    def is_finished(self, trial: int) -> bool:
        """Whether a trial's last cycle has its results, and these are to stay."""
        if self.run.overwrite:
            return False
        last = str(self.run.config.active_learning.cycles)
        return any(row["trial"] == str(trial) and row["cycle"] == last for row in self.rows())

    def write_row(self, row: Row) -> None:
        """Adds a cycle's row to `results.csv`; what is there of it or of later cycles goes.

        A cell is empty where its row has no such column.
        """
        place = (int(row["trial"]), int(row["cycle"]))
        kept = [
            other
            for other in self.rows()
            if int(other["trial"]) != place[0] or int(other["cycle"]) < place[1]
        ]
        rows = sorted([*kept, row], key=lambda r: (int(r["trial"]), int(r["cycle"])))
        write_atomically(self.path / "results.csv", _csv(RESULT_COLUMNS, rows))

    def write_queries(
        self, trial: int, cycle: int, subset: np.ndarray, query: Query, dataset: Dataset
    ) -> None:
        """Writes what was queried after a cycle, in the order queried."""
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

    def write_weights(self, trial: int, cycle: int, networks: dict[str, torch.nn.Module]) -> None:
        """Writes a cycle's published checkpoint: `cycle`, and `state_dict_NAME` of each network."""
        checkpoint = {"cycle": cycle}
        for name, network in networks.items():
            checkpoint[f"state_dict_{name}"] = network.state_dict()
        path = self.path / "weights" / f"trial{trial}_cycle{cycle}.pth"
        write_atomically(path, _torch_bytes(checkpoint))
        if self.run.keep_weights == "last":
            for earlier in range(1, cycle):
                (path.parent / f"trial{trial}_cycle{earlier}.pth").unlink(missing_ok=True)

    def _progress_files(self, trial: int) -> tuple[Path, Path]:
        """A trial's last saved state, and the one before it."""
        folder = self.path / "progress"
        return folder / f"trial{trial}.pt", folder / f"trial{trial}.before.pt"

    def save_progress(self, trial: int, state: dict[str, Any]) -> None:
        """Saves a trial's state; the one saved before is kept as a spare."""
        content = _torch_bytes(state)
        newest, spare = self._progress_files(trial)
        write_atomically(newest, content + hashlib.blake2b(content).digest(), spare=spare)

    def load_progress(self, trial: int, device: torch.device) -> dict[str, Any] | None:
        """The trial's state as last saved; None where there is none to go on from."""
        for path in self._progress_files(trial):
            if not path.exists():
                continue
            try:
                stored = path.read_bytes()
                content, digest = stored[:-DIGEST_BYTES], stored[-DIGEST_BYTES:]
                if hashlib.blake2b(content).digest() != digest:
                    raise ValueError("its checksum is wrong")
                return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            # Whatever is wrong with the newest state, the one before it may be good.
            except Exception as error:
                log.warning("%s: is damaged (%s); using what was saved before", path, error)
                # It must not become the spare of the next state.
                path.unlink()
        return None

    def remove_progress(self, trial: int) -> None:
        """Removes the saved states of a finished trial."""
        for path in self._progress_files(trial):
            path.unlink(missing_ok=True)

    def log_table(self) -> None:
        """Shows the accuracy by number of labels, over the trials that there are."""
        accuracies: dict[int, list[float]] = {}
        for row in self.rows():
            accuracies.setdefault(int(row["num_labeled"]), []).append(float(row["test_accuracy"]))
        log.info("labels  test accuracy in % (mean ± standard deviation over trials)")
        for num_labeled, values in sorted(accuracies.items()):
            deviation = f"± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            log.info("%6d  %.2f %s (%d)", num_labeled, np.mean(values), deviation, len(values))


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


def device_name(device: torch.device) -> str:
    """The device as a person knows it."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _torch_bytes(content: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
