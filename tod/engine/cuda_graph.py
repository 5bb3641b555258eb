"""The training step on CUDA: its gradients as graphs, one launch for a thousand; side streams."""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

log = logging.getLogger("tod")

WARM_UP_STEPS = 3
"""Steps before a capture, in which cuDNN chooses its algorithms."""


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    losses: Tensor
    gradients: list[Tensor | None]


class GraphedGradients:
    """Replays the computation of a loss and its gradients.

    It is captured once for each kind of step and each shape of its arguments, so that a smaller
    last batch has a graph of its own, which all epochs of a cycle share. A capture leaves
    parameters and buffers as they were. Where it fails, or gives another loss or other gradients
    than the computation itself, all further steps are computed without graphs. The `networks` are
    all that are trained or run, on one CUDA device.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.parameters = [p for network in networks for p in network.parameters()]
        self.buffers = [b for network in networks for b in network.buffers()]
        self.captured: dict[Hashable, _Captured] = {}
        self.works = True

    @cached_property
    def _pool(self) -> tuple[int, int]:
        """All graphs compute in the same memory, since no two of them run at once."""
        return torch.cuda.graph_pool_handle()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    def forget(self) -> None:
        """Frees all graphs: batches of other sizes come. Never one, whose memory others use."""
        self.captured.clear()
        self.__dict__.pop("_pool", None)  # the allocator takes no memory twice under one name

    def __call__(
        self, compute: Callable[..., Tensor], graph_key: Hashable, *inputs: Tensor
    ) -> Tensor:
        """The losses of one step; their gradients are in the parameters' `grad`.

        `compute` gives, of the inputs, the losses (K,) without history; it adds the gradients to
        those of the parameters, and may change the networks' buffers. What else than the inputs'
        shapes decides what is computed is in `graph_key`.
        """
        graph_key = (graph_key, *(tuple(tensor.shape) for tensor in inputs))
        if self.works and graph_key not in self.captured:
            try:
                self.captured[graph_key] = self._capture(compute, inputs)
            except RuntimeError as error:
                self.works = False
                self._end_allocation()
                self.forget()
                reason = str(error).strip().split("\n")[0]
                log.warning("CUDA graphs do not work here (%s): steps are launched singly", reason)
        if not self.works:
            self._remove_gradients()
            return compute(*inputs)
        captured = self.captured[graph_key]
        torch._foreach_copy_(captured.inputs, list(inputs))
        captured.graph.replay()
        for parameter, gradient in zip(self.parameters, captured.gradients, strict=True):
            parameter.grad = gradient
        return captured.losses

    def _capture(self, compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> _Captured:
        static = [tensor.clone() for tensor in inputs]
        before = [buffer.clone() for buffer in self.buffers]
        current_stream = torch.cuda.current_stream()

        def restore() -> None:
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)

        def compute_anew(*inputs: Tensor) -> Tensor:
            restore()  # which a loss with a memory of images sees
            return compute(*inputs)

        try:
            expected, expected_norms = self._warm_up(compute_anew, static)
            restore()
            # Without gradients to add to, a graph writes its own, and need not clear them first.
            self._remove_gradients()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                losses = compute(*static)
            gradients = [parameter.grad for parameter in self.parameters]
            restore()
            graph.replay()
            if not torch.allclose(losses[0], expected[0], rtol=1e-2, atol=1e-4, equal_nan=True):
                raise RuntimeError(f"loss {losses[0].item():g} instead of {expected[0].item():g}")
            norms = self._gradient_norms()
            slack = 1e-3 * expected_norms.amax().item()
            if not torch.allclose(norms, expected_norms, rtol=5e-2, atol=slack, equal_nan=True):
                raise RuntimeError("other gradients than without a graph")
        finally:
            # A capture that fails may leave its own stream current.
            torch.cuda.set_stream(current_stream)
            try:
                # What a failed warm-up has left running would write to the buffers later.
                self._stream.synchronize()
            finally:
                restore()
        return _Captured(graph, static, losses, gradients)

    def _warm_up(
        self, compute: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The losses and the gradients' norms, without a graph, on a stream of its own."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_STEPS):
                self._remove_gradients()
                losses = compute(*inputs)
            norms = self._gradient_norms()
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses, norms

    def _end_allocation(self) -> None:
        """Tells the allocator that the capture has ended, if PyTorch has not.

        Where CUDA invalidates a capture, PyTorch's end of it raises before that. Then the allocator
        never takes memory back that two streams have used, such as images' from the host.
        """
        with suppress(RuntimeError, AttributeError):  # it has ended; there is no CUDA
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)

    def _gradient_norms(self) -> Tensor:
        """The norm of each parameter's gradient, (P,); −1 where there is none."""
        norms = [
            torch.linalg.vector_norm(p.grad) if p.grad is not None else p.new_full((), -1.0)
            for p in self.parameters
        ]
        return torch.stack(norms)

    def _remove_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all trials of the process: each keeps memory of its own."""
    return torch.cuda.Stream(device)


class SideStream:
    """A second CUDA stream, for work beside the current one's; other devices work in turn."""

    def __init__(self, device: torch.device) -> None:
        self.stream = _second_stream(device) if device.type == "cuda" else None

    def work(self) -> AbstractContextManager[Any]:
        """What is done in this context may run at the same time as what follows it."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self.stream)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Waits for that work at its end, also after an error: a capture ends on one stream."""
        try:
            yield
        finally:
            if self.stream is not None:
                torch.cuda.current_stream().wait_stream(self.stream)
