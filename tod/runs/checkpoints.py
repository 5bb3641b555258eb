"""The published checkpoint of each cycle, and the state from which a killed trial resumes."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from tod.config.identity import cycle_name
from tod.system.files import MEND, atomic_file, cannot, remove
from tod.system.machine import is_out_of_memory

log = logging.getLogger("tod")


def write_weights(
    folder: Path, trial: int, cycle: int, networks: dict[str, nn.Module], keep: str
) -> None:
    """Writes a cycle's published checkpoint: `cycle`, and `state_dict_NAME` of each network.

    `keep` = `last` removes those of the trial's earlier cycles.
    """
    checkpoint: dict[str, Any] = {"cycle": cycle}
    for name, network in networks.items():
        # So that machines without a GPU can load it.
        state = {key: value.cpu() for key, value in network.state_dict().items()}
        checkpoint[f"state_dict_{name}"] = state
    with atomic_file(folder / "weights" / f"{cycle_name(trial, cycle)}.pth") as file:
        _torch_save(checkpoint, file)
    if keep == "last":
        for earlier in range(1, cycle):
            remove(folder / "weights" / f"{cycle_name(trial, earlier)}.pth")


class Progress:
    """The saved state of a trial in a run's folder, and the one before it."""

    def __init__(self, folder: Path, trial: int) -> None:
        self.newest = folder / "progress" / f"trial{trial}.pt"
        self.spare = self.newest.with_name(f"trial{trial}.before.pt")

    def exists(self) -> bool:
        """Whether there is a saved state, sound or not."""
        return self.newest.exists() or self.spare.exists()

    def save(self, state: dict[str, Any]) -> None:
        """Writes a state with its digest; the previous one becomes the spare."""
        with atomic_file(self.newest, self.spare) as file:
            file.write(_torch_save(state, file))

    def load(self) -> dict[str, Any] | None:
        """The newest sound state, with its tensors on the CPU; None if there is none."""
        for path in (self.newest, self.spare):
            if path.exists() and self._is_sound(path):
                try:
                    # A mapped file takes no memory besides the networks that it is loaded into.
                    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    advice = "go on with the one that saved it, or name another --output-dir"
                    raise cannot(path, "read by this PyTorch", error, advice) from None
        return None

    def _is_sound(self, path: Path) -> bool:
        """Whether a state ends with the digest of its content; if not, warns and removes it.

        A damaged state must not become the spare of the next one.
        """
        if _has_its_digest(path):
            return True
        has_spare = path != self.spare and self.spare.exists()
        instead = "; using what was saved before" if has_spare else ""
        log.warning(f"{path}: is damaged (its checksum is wrong){instead}")
        remove(path)
        return False

    def remove(self) -> None:
        """Removes both states."""
        remove(self.newest)
        remove(self.spare)


class _HashedFile(io.RawIOBase):
    """Keeps the digest of what is written, and the OSError, which `torch.save` would replace."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.blake2b()
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            if self.error is None:
                self.file.write(content)
        except OSError as error:
            self.error = error
        self.digest.update(content)
        return len(content)


def _torch_save(content: dict[str, Any], file: BinaryIO) -> bytes:
    """Writes a checkpoint without a copy in memory, and returns its digest."""
    hashed = _HashedFile(file)
    torch.save(content, hashed)
    if hashed.error is not None:
        raise hashed.error
    return hashed.digest.digest()


def _has_its_digest(path: Path) -> bool:
    """Whether a state ends with the digest of its content."""
    digest = hashlib.blake2b()
    try:
        with path.open("rb") as file:
            left = path.stat().st_size - digest.digest_size
            while content := file.read(min(max(left, 0), 2**20)):
                digest.update(content)
                left -= len(content)
            return file.read() == digest.digest()
    except OSError as error:
        raise cannot(path, "read", error, MEND) from None
