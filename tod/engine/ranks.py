"""Processes that share one trial: all run the same loop, and each computes its share.

Draws depend on their place alone, so every rank makes the same ones. Rank 0 alone reads and writes
the run's files and answers signals; the others get from it what it has read or decided, so that no
difference in rounding can part them.
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
"""What is kept of one batch's outputs: tensors (n, …)."""


class LostRankError(InputError):
    """A rank does not answer any more."""


class DataParallel:
    """The ranks that share a trial, made by all of them and used as a context; or one rank alone.

    Whatever speaks to the others raises `LostRankError` when one does not answer any more.

    Attributes:
        place: distinguishes what the ranks draw for their own share.
        batches: which batches of a pass are this rank's: whole ones, computed as in one process.
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
                # In a step, all are there; NCCL ends a process that waits longer for one that is
                # not. Between steps, the others wait as long as rank 0 reads and writes.
                distributed.init_process_group(backend, timeout=timedelta(minutes=30))
                self._between_steps = distributed.new_group(backend="gloo", timeout=day)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        # What the others wait for comes to nothing when this process ends.
        if self.world_size > 1 and kind is None:
            distributed.destroy_process_group()

    def use(self, device: torch.device) -> None:
        """Computes on this device from now on, if the ranks can share its kind."""
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
        """What rank 0 finds. Where that fails, the others end too and leave the word to it."""
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
        """Rank 0's number: `from_main` by one short message, for each step."""
        answer = torch.tensor(number)
        if self.world_size > 1:
            with self._explain_failures():
                distributed.broadcast(answer, 0, self._between_steps)
        return int(answer)

    def each(self, find: Callable[[], T]) -> T:
        """What each rank finds by itself. Where that fails on rank 0 too, it alone says so."""
        if self.world_size == 1:
            return find()
        found, failure = None, None
        try:
            found = find()
        except InputError as error:
            failure = error
        main_fails = self.from_main(lambda: failure is not None)
        if failure is not None and self.is_main >= main_fails:
            raise failure
        if main_fails:
            raise SystemExit(2)
        return found

    def own_share(self, views: Tensor, num_labeled: int) -> tuple[Tensor, int]:
        """This rank's rows of a batch that begins with labelled images, and how many of these."""
        if self.world_size == 1:
            return views, num_labeled
        labeled, unlabeled = (
            rows.split(self._shares(len(rows)))[self.rank]
            for rows in (views[:num_labeled], views[num_labeled:])
        )
        return torch.cat([labeled, unlabeled]), len(labeled)

    def _shares(self, count: int) -> list[int]:
        """How many of so many images of a batch each rank has.

        Those of the ranks that have any differ by one at most. On a CPU none is of a single image,
        on which batch norm could not train: of few images, some ranks get none.
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
        """What all ranks have computed of a batch of `count` images, in the images' order.

        `own` is of this rank's share: a tensor (n, …), or a backbone's outputs, of whose feature
        maps nothing is left. Gradients reach the own rows alone: those of a loss of all this,
        summed over the ranks, are those of one process.
        """
        if self.world_size == 1:
            return own
        if not isinstance(own, Tensor):
            *of_images, _ = own
            return (*(self.whole(tensor, count) for tensor in of_images), [])
        counts = self._shares(count)
        # Gloo knows no bf16.
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
        """Adds the gradients of the loss, summed over the ranks, to the networks' own."""
        loss.backward()
        if self.world_size == 1:
            return
        parameters = chain(*(network.parameters() for network in networks))
        # What takes no part in the loss takes none on any rank.
        gradients = [p.grad for p in parameters if p.grad is not None]
        summed = torch.cat([gradient.flatten() for gradient in gradients])
        with self._explain_failures():
            distributed.all_reduce(summed)
        parts = summed.split([gradient.numel() for gradient in gradients])
        parts = [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(gradients, parts)

    def share_statistics(self, networks: Sequence[nn.Module]) -> None:
        """On GPUs, batch norm takes the statistics of the whole batch; changes the networks."""
        if self.device.type == "cuda":
            for network in networks:
                nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def synchronize(self, networks: Sequence[nn.Module]) -> None:
        """Gives all ranks rank 0's networks: batch-norm statistics are of each one's own share."""
        if self.world_size > 1:
            with self._explain_failures():
                for tensor in chain(*(network.state_dict().values() for network in networks)):
                    dense = tensor.contiguous()  # which channels-last weights are not
                    distributed.broadcast(dense, 0)
                    tensor.copy_(dense)

    def gather(self, found: Sequence[Of]) -> Sequence[Of]:
        """What all ranks have found of their batches, in the batches' order."""
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
            reason = shortened(str(error).strip().split("\n")[0])
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
