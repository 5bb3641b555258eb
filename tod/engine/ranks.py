"""Processes that share one trial: all run the same loop, and each computes its share.

Draws depend on their place alone, so all ranks draw the same. Rank 0 alone reads and writes the
run's files and answers signals. It broadcasts what it has read or decided, so no difference in
rounding can make the ranks diverge.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from tod.config import InputError
from tod.config.settings import shortened
from tod.system.machine import is_out_of_memory

T = TypeVar("T")
Of = tuple[Tensor, ...]
"""The parts of one batch's outputs that are kept: tensors (n, …)."""


class LostRankError(InputError):
    """Another rank no longer answers."""


class DataParallel:
    """The ranks that share a trial, as a context manager that each of them enters; or one alone.

    Every communication raises `LostRankError` if another rank no longer answers.

    Attributes:
        place: distinguishes the draws of a rank for its own share.
        batches: this rank's batches of a pass: whole ones, computed as in one process.
    """

    def __init__(self, rank: int = 0, world_size: int = 1, device: str = "cpu") -> None:
        self.rank = rank
        self.world_size = world_size
        self.is_main = rank == 0
        self.place = (rank,) if rank else ()
        self.batches = slice(rank, None, world_size)
        self.device = torch.device("cpu")
        self._may_use_gpus = device in ("auto", "cuda") and distributed.is_nccl_available()

    def __enter__(self) -> "DataParallel":
        if self.world_size > 1:
            with_gpus = self._may_use_gpus and torch.cuda.is_available()
            backend, day = "cpu:gloo,cuda:nccl" if with_gpus else "gloo", timedelta(days=1)
            with self._explain_failures():
                # Within a step all ranks are present; NCCL ends a process that waits longer for a
                # missing one. Between steps, the others wait while rank 0 reads and writes.
                distributed.init_process_group(backend, timeout=timedelta(minutes=30))
                self._between_steps = distributed.new_group(backend="gloo", timeout=day)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        # After an error, the end of this process is what releases the others.
        if self.world_size > 1 and kind is None:
            distributed.destroy_process_group()

    def use(self, device: torch.device) -> None:
        """Sets the device; InputError if the ranks cannot share a trial on it."""
        if self.world_size == 1:
            return
        wanted = self.from_main(lambda: _shareable(device).type)
        if device.type != wanted:
            raise InputError(
                f"--device: is {device.type} on this machine, and {wanted} on rank 0's; name one "
                "that all have"
            )
        self.device = _shareable(device)

    def from_main(self, find: Callable[[], T]) -> T:
        """Rank 0's result of `find`. If it fails, rank 0 says so and the others end silently."""
        if self.world_size == 1:
            return find()
        found: list[Any] = [False, None]
        try:
            if self.is_main:
                found = [True, find()]
        finally:
            with self._explain_failures():
                distributed.broadcast_object_list(found, 0, self._between_steps)
        if not found[0]:
            raise SystemExit(2)
        return found[1]

    def agree(self, number: int) -> int:
        """Rank 0's number: a `from_main` that is cheap enough for every step."""
        answer = torch.tensor(number)
        if self.world_size > 1:
            with self._explain_failures():
                distributed.broadcast(answer, 0, self._between_steps)
        return int(answer)

    def each(self, find: Callable[[], T]) -> T:
        """Each rank's own result of `find`, rank 0's first: the others read what it has kept.

        If it fails on rank 0, or is interrupted, the others do not begin.
        """
        found: list[T] = []
        self.from_main(lambda: found.append(find()))
        return found[0] if self.is_main else find()

    def own_share(self, views: Tensor, num_labeled: int) -> tuple[Tensor, int]:
        """This rank's rows of a batch, labelled ones first, and the number of labelled ones."""
        if self.world_size == 1:
            return views, num_labeled
        labeled, unlabeled = (
            rows.split(self._shares(len(rows)))[self.rank]
            for rows in (views[:num_labeled], views[num_labeled:])
        )
        return torch.cat([labeled, unlabeled]), len(labeled)

    def _shares(self, count: int) -> list[int]:
        """How a batch of `count` images is divided: the number for each rank.

        The numbers of ranks that have any images differ by one at most. On a CPU no rank has a
        single image, on which batch norm cannot train, so small batches leave some ranks without.
        """
        sharing = min(self.world_size, max(1, count // 2))
        if self.device.type == "cuda":
            sharing = self.world_size
            if 0 < count < sharing:
                raise InputError(
                    f"--parallel data: a batch of {count} images cannot be shared by {sharing} "
                    "GPUs; what was saved stays: start fewer ranks"
                )
        size, more = divmod(count, sharing)
        return [size + (rank < more) if rank < sharing else 0 for rank in range(self.world_size)]

    def whole(self, own: Any, count: int) -> Any:
        """The results of all ranks for a batch of `count` images, in the images' order.

        `own` belongs to this rank's share: a tensor (n, …), or a backbone's outputs, whose feature
        maps are dropped. Gradients reach only this rank's own rows; summed over the ranks, the
        gradients of a loss of the result are those of one process.
        """
        if self.world_size == 1:
            return own
        if not isinstance(own, Tensor):
            *of_images, _ = own
            return (*(self.whole(tensor, count) for tensor in of_images), [])
        counts = self._shares(count)
        # Gloo has no bf16.
        dtype = torch.float32 if own.dtype == torch.bfloat16 else own.dtype
        padded = own.new_zeros(max(counts), *own.shape[1:], dtype=dtype)
        padded[: len(own)] = own.detach()
        received = [torch.empty_like(padded) for _ in counts]
        with self._explain_failures():
            distributed.all_gather(received, padded)
        parts = [part[:n].to(own.dtype) for part, n in zip(received, counts, strict=True)]
        parts[self.rank] = own
        return torch.cat(parts)

    def backward(self, loss: Tensor, networks: Sequence[nn.Module]) -> None:
        """Adds the gradients of the loss, summed over the ranks, to those of the networks."""
        loss.backward()
        if self.world_size == 1:
            return
        parameters = chain(*(network.parameters() for network in networks))
        # A parameter without a gradient has none on any rank.
        gradients = [p.grad for p in parameters if p.grad is not None]
        summed = torch.cat([gradient.flatten() for gradient in gradients])
        with self._explain_failures():
            distributed.all_reduce(summed)
        parts = summed.split([gradient.numel() for gradient in gradients])
        parts = [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(gradients, parts)

    def share_statistics(self, networks: Sequence[nn.Module]) -> None:
        """On GPUs, changes batch norm in place to use the statistics of the whole batch."""
        if self.device.type == "cuda":
            for network in networks:
                nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def synchronize(self, networks: Sequence[nn.Module]) -> None:
        """Copies rank 0's networks to all ranks, whose batch-norm statistics differ."""
        if self.world_size > 1:
            with self._explain_failures():
                for tensor in chain(*(network.state_dict().values() for network in networks)):
                    dense = tensor.contiguous()  # as channels-last weights are not
                    distributed.broadcast(dense, 0)
                    tensor.copy_(dense)

    def gather(self, found: Sequence[Of]) -> Sequence[Of]:
        """The results of all ranks for their batches, in the batches' order."""
        if self.world_size == 1:
            return found
        of_ranks: list[Any] = [None] * self.world_size
        own = [tuple(tensor.cpu() for tensor in of_batch) for of_batch in found]
        with self._explain_failures():
            distributed.all_gather_object(of_ranks, own, self._between_steps)
        in_order = filter(None, chain.from_iterable(zip_longest(*of_ranks)))
        return [tuple(tensor.to(self.device) for tensor in of_batch) for of_batch in in_order]

    @contextmanager
    def _explain_failures(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # NCCL's own reason stands last, below its advice.
            reason = shortened(str(error).rpartition("Last error:")[2].strip().split("\n")[0])
            raise LostRankError(
                f"[rank {self.rank}] another rank has failed, and says why ({reason})"
            ) from None


def _shareable(device: torch.device) -> torch.device:
    if device.type == "mps":
        raise InputError("--parallel data: needs CUDA devices, or --device cpu")
    local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
    if device.type == "cuda" and local_world_size > torch.cuda.device_count():
        raise InputError("--parallel data: needs a GPU for each rank; start fewer ranks")
    return device
