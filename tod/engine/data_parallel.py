"""One trial on several devices: rank 0 leads, and all ranks share the work on its batches.

Rank 0 goes through the experiment as a process alone would, and writes all files. The others hold
the same images, and do what it orders: to train through a cycle beside it, each on its share of
every batch, or to take their share of a pass over images.
"""

import io
import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import reduce
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed, nn

from models import Outputs
from models.inference import OfOutputs
from tod.config import InputError
from tod.config.settings import shortened
from tod.engine.one_rank import OneRank
from tod.system.machine import is_out_of_memory


class TrainCycle(NamedTuple):
    """The order to train a trial's cycle to its end.

    Attributes:
        trial: its number.
        state: of rank 0's learner.
        labeled: indices of the labelled images.
        unlabeled: indices of the pool.
    """

    trial: int
    state: dict[str, Any]
    labeled: np.ndarray
    unlabeled: np.ndarray


class Pass(NamedTuple):
    """The order to take a network over images.

    Attributes:
        network: in evaluation mode.
        of_outputs: what to keep.
        rows: indices of the images (N,), or views of them (N, 4).
        of_test: whether they are test images.
        allow_tf32: whether products are rounded to TF32.
    """

    network: nn.Module
    of_outputs: OfOutputs
    rows: Tensor
    of_test: bool
    allow_tf32: bool


class LostRankError(InputError):
    """A rank does not answer any more."""


class DataParallel(OneRank):
    """One of several ranks, made by all of them and used as a context.

    Args:
        rank: of this process; 0 leads.
        world_size: how many there are.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        LostRankError: by whatever speaks to the others, when one does not answer any more.
    """

    def __init__(self, rank: int, world_size: int, device: str = "cpu") -> None:
        self.rank = rank
        self.world_size = world_size
        self.place = (rank,) if rank else ()
        self.batches = slice(rank, None, world_size)
        self.device = torch.device("cpu")
        self.may_use_gpus = device in ("auto", "cuda") and distributed.is_nccl_available()
        self.has_begun = False
        # A thread of gloo's that frees a tensor of Python's waits for the interpreter, which waits
        # for it where the group is destroyed: so these are freed after that.
        self._of_last_order: tuple[Tensor, ...] = ()

    @property
    def leads(self) -> bool:
        """Whether this is the process that goes through the experiment."""
        return self.rank == 0

    def __enter__(self) -> "DataParallel":
        with_gpus = self.may_use_gpus and torch.cuda.is_available()
        # In a step, all are there; NCCL ends a process that waits longer for one that is not.
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if with_gpus else "gloo", timeout=timedelta(minutes=30)
        )
        # A follower waits as long as the leader chooses and writes.
        self._between_steps = distributed.new_group(backend="gloo", timeout=timedelta(days=1))
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        # What the others wait for comes to nothing when this process ends.
        if kind is not None and (self.has_begun or not self.leads):
            return
        if self.leads:
            with suppress(LostRankError):
                self.lead(None)
        distributed.destroy_process_group()

    def begin(self, order: object, device: torch.device) -> None:
        """Gives the first order, and computes on this device.

        Raises:
            InputError: ranks cannot share it; the others end too.
        """
        self.use(device)
        self.has_begun = True
        self.lead(order)

    def use(self, device: torch.device) -> None:
        """Computes on this device from now on; called by all ranks.

        Raises:
            InputError: ranks cannot share it.
        """
        self.device = device
        if device.type == "mps":
            raise InputError("--parallel data: needs CUDA devices, or --device cpu")
        local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
        if device.type == "cuda" and local_world_size > torch.cuda.device_count():
            raise InputError("--parallel data: needs a GPU for each rank; start fewer ranks")

    def lead(self, order: object) -> None:
        """See `OneRank`; to the others, whatever it holds.

        Raises:
            InputError: the order holds something that cannot be sent, or a rank is lost.
        """
        try:
            content = _saved(order)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"--parallel data: cannot be sent to the other processes ({error}); what a "
                "strategy gives to Pool.compute must be defined at the top of a module"
            ) from None
        rows = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        size = torch.tensor(len(rows))
        with self._explain_failures():
            distributed.broadcast(size, 0, self._between_steps)
            distributed.broadcast(rows, 0, self._between_steps)
        self._of_last_order = size, rows

    def next_order(self) -> Any:
        """Waits for the leader's next order; its tensors come to this rank's device."""
        size = torch.tensor(0)
        with self._explain_failures():
            distributed.broadcast(size, 0, self._between_steps)
            rows = torch.empty(int(size), dtype=torch.uint8)
            distributed.broadcast(rows, 0, self._between_steps)
        self._of_last_order = size, rows
        return self._loaded(rows.numpy().tobytes())

    def agree(self, go_on: bool = True) -> bool:
        """Whether the leader goes on, which all are told; called by all ranks after each step."""
        answer = torch.tensor(go_on)
        with self._explain_failures():
            distributed.broadcast(answer, 0, self._between_steps)
        return bool(answer)

    def leading(self, after_step: Callable[[], None]) -> Callable[[], None]:
        def agreed() -> None:
            try:
                after_step()
            except BaseException:
                with suppress(LostRankError):
                    self.agree(False)
                raise
            self.agree()

        return agreed

    def own_share(self, views: Tensor, num_labeled: int) -> tuple[Tensor, int]:
        labeled, unlabeled = (
            rows[self._share(len(rows))] for rows in (views[:num_labeled], views[num_labeled:])
        )
        return torch.cat([labeled, unlabeled]), len(labeled)

    def _share(self, count: int) -> slice:
        ends = np.cumsum([0, *self._shares(count)]).tolist()
        return slice(ends[self.rank], ends[self.rank + 1])

    def _shares(self, count: int) -> list[int]:
        """How many of so many images of a batch each rank has.

        Those of the ranks that have any differ by one at most. On a CPU none is of a single image,
        on which batch norm could not train: of few images, some ranks get none.

        Raises:
            InputError: there are fewer images than GPUs.
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

    def of_whole_batches(
        self,
        counts: Sequence[int],
        outputs: Sequence[Outputs],
        targets: Sequence[Tensor],
        predictions: Sequence[Tensor],
    ) -> tuple[Sequence[Outputs], Sequence[Tensor], Sequence[Tensor]]:
        whole_outputs, whole_targets, whole_predictions = [], [], []
        for i, (*of_images, _) in enumerate(outputs):
            given = [*targets[i : i + 1], *predictions[i : i + 1]]
            whole = self._whole([*of_images, *given], counts[i])
            if i < len(predictions):
                whole_predictions.append(whole.pop())
            if i < len(targets):
                whole_targets.append(whole.pop())
            whole_outputs.append((*whole, []))
        return whole_outputs, whole_targets, whole_predictions

    def _whole(self, own: Sequence[Tensor], count: int) -> list[Tensor]:
        """Tensors (n, …) of this rank's share → the same of all `count` images, (N, …)."""
        counts, mine = self._shares(count), self._share(count)
        rows = [tensor.reshape(len(tensor), math.prod(tensor.shape[1:])) for tensor in own]
        # Which holds all integers that a loss of one's own may give, up to 2⁵³.
        dtypes = (t.dtype if t.is_floating_point() else torch.float64 for t in own)
        dtype = reduce(torch.promote_types, dtypes, torch.float32)
        packed = torch.cat([of_tensor.detach().to(dtype) for of_tensor in rows], dim=1)
        padded = packed.new_zeros(max(counts), packed.shape[1])
        padded[: len(packed)] = packed
        received = [torch.empty_like(padded) for _ in counts]
        with self._explain_failures():
            distributed.all_gather(received, padded)
        everything = torch.cat([part[:n] for part, n in zip(received, counts, strict=True)])
        columns = everything.split([of_tensor.shape[1] for of_tensor in rows], dim=1)
        whole = []
        for tensor, column in zip(own, columns, strict=True):
            of_all = column.reshape(count, *tensor.shape[1:]).to(tensor.dtype)
            whole.append(torch.cat([of_all[: mine.start], tensor, of_all[mine.stop :]]))
        return whole

    def backward(self, loss: Tensor, networks: Sequence[nn.Module]) -> None:
        loss.backward()
        parameters = [p for network in networks for p in network.parameters()]
        # What takes no part in the loss takes none on any rank.
        gradients = [p.grad for p in parameters if p.grad is not None]
        summed = torch.cat([gradient.flatten() for gradient in gradients])
        with self._explain_failures():
            distributed.all_reduce(summed)
        parts = summed.split([gradient.numel() for gradient in gradients])
        parts = [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)]
        torch._foreach_copy_(gradients, parts)

    def share_statistics(self, networks: Sequence[nn.Module]) -> None:
        if self.device.type == "cuda":
            for network in networks:
                nn.SyncBatchNorm.convert_sync_batchnorm(network)

    def gather(self, found: Sequence[tuple[Tensor, ...]]) -> Sequence[tuple[Tensor, ...]]:
        of_ranks = [b""] * self.world_size if self.leads else None
        with self._explain_failures():
            distributed.gather_object(_saved(found), of_ranks, 0, self._between_steps)
        in_order = zip_longest(*map(self._loaded, of_ranks or ()))
        return [tensors for tensors in chain.from_iterable(in_order) if tensors is not None]

    def _loaded(self, content: bytes) -> Any:
        return torch.load(io.BytesIO(content), map_location=self.device, weights_only=False)

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


def _saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
