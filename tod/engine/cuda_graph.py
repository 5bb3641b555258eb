"""The training step on CUDA: graphs, one launch instead of a thousand, and side streams."""

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

log = logging.getLogger("tod")

WARM_UP_STEPS = 3
"""Steps before a capture, while cuDNN chooses its algorithms."""


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    losses: Tensor
    gradients: list[Tensor | None]


class GraphedGradients:
    """Replays the computation of a loss and its gradients.

    Each kind of step and each shape of its arguments is captured once, so a smaller last batch has
    its own graph, which all epochs of a cycle share. A capture leaves parameters and buffers
    unchanged. If it fails, or its loss or gradients differ from the computation's, all further
    steps run without graphs. `networks` are all networks that a step trains or runs, on one CUDA
    device.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.parameters = [p for network in networks for p in network.parameters()]
        self.buffers = [b for network in networks for b in network.buffers()]
        self.captured: dict[Hashable, _Captured] = {}
        self.works = True

    @cached_property
    def _pool(self) -> tuple[int, int]:
        """All graphs share this memory, since no two of them run at once."""
        return torch.cuda.graph_pool_handle()

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    def forget(self) -> None:
        """Frees all graphs, which share their memory: the gradients lie in it, too."""
        self.captured.clear()
        self._remove_gradients()
        self.__dict__.pop("_pool", None)  # the allocator takes no memory twice under one name

    def __call__(
        self, compute: Callable[..., Tensor], graph_key: Hashable, *inputs: Tensor
    ) -> Tensor:
        """Returns the losses of one step, and leaves their gradients in the parameters' `grad`.

        `compute` maps the inputs to the losses (K,) without history, adds the gradients to the
        parameters', and may change the networks' buffers. `graph_key` holds whatever decides what
        is computed, apart from the inputs' shapes.
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
            restore()  # a loss with a memory of images reads buffers
            return compute(*inputs)

        try:
            expected, expected_norms = self._warm_up(compute_anew, static)
            restore()
            # Without gradients to add to, a graph writes new ones, and need not clear any first.
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
            slack = 1e-3 * expected_norms.nan_to_num().amax().item()
            if not torch.allclose(norms, expected_norms, rtol=5e-2, atol=slack, equal_nan=True):
                raise RuntimeError("other gradients than without a graph")
        finally:
            # A failed capture may leave its own stream current.
            torch.cuda.set_stream(current_stream)
            try:
                # Kernels of a failed warm-up may still run, and would write to the buffers later.
                self._stream.synchronize()
            finally:
                restore()
        return _Captured(graph, static, losses, gradients)

    def _warm_up(
        self, compute: Callable[..., Tensor], inputs: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The losses and the gradients' norms, computed without a graph on a separate stream."""
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

        When CUDA invalidates a capture, PyTorch raises before it does so. The allocator would then
        never free memory that two streams have used, such as the images' from the host.
        """
        with suppress(RuntimeError, AttributeError):  # it has ended already, or there is no CUDA
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
    """One stream for all trials of the process, since each stream keeps memory of its own."""
    return torch.cuda.Stream(device)


class SideStream:
    """A second CUDA stream for concurrent work; other devices do it in order."""

    def __init__(self, device: torch.device) -> None:
        self.stream = _second_stream(device) if device.type == "cuda" else None

    def work(self) -> AbstractContextManager[Any]:
        """Work in this context may overlap with the work that follows it."""
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self.stream)

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Waits for that work on exit, even after an error: a capture must end on one stream."""
        try:
            yield
        finally:
            if self.stream is not None:
                torch.cuda.current_stream().wait_stream(self.stream)
