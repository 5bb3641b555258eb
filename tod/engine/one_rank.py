"""What a training step and a pass ask of the ranks that share them; here, of the only one."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from models import Outputs


class OneRank:
    """The only process of a trial, whose share of everything is all of it.

    Attributes:
        world_size: how many ranks there are.
        place: distinguishes what the ranks draw.
        batches: which batches of a pass are this rank's: whole ones, so that all are computed as
            in one process.
    """

    world_size = 1
    place: tuple[int, ...] = ()
    batches = slice(None)

    def lead(self, order: object) -> None:
        """Gives an order to all other ranks; None: there is nothing left to do."""

    def leading(self, after_step: Callable[[], None]) -> Callable[[], None]:
        """What to call after each step, so that the others know whether the leader goes on."""
        return after_step

    def own_share(self, views: Tensor, num_labeled: int) -> tuple[Tensor, int]:
        """This rank's rows of a batch that begins with labelled images, and how many of these."""
        return views, num_labeled

    def of_whole_batches(
        self,
        counts: Sequence[int],
        outputs: Sequence[Outputs],
        targets: Sequence[Tensor],
        predictions: Sequence[Tensor],
    ) -> tuple[Sequence[Outputs], Sequence[Tensor], Sequence[Tensor]]:
        """What all ranks have computed of some batches, where gradients reach the own rows alone.

        The gradients of a loss of all this, summed over the ranks, are those of one process. Of
        several ranks, there are no feature maps any more.

        Args:
            counts: N, the images of each whole batch.
            outputs: the backbone's, of this rank's share of each.
            targets: a tensor (n, …) for each batch, or none.
            predictions: a tensor (n, …) for each of the first batches, or none.
        """
        return outputs, targets, predictions

    def backward(self, loss: Tensor, networks: Sequence[nn.Module]) -> None:
        """Adds the gradients of the loss, summed over the ranks, to the networks' own."""
        loss.backward()

    def share_statistics(self, networks: Sequence[nn.Module]) -> None:
        """On GPUs, batch norm takes the statistics of the whole batch; changes the networks."""

    def gather(self, found: Sequence[tuple[Tensor, ...]]) -> Sequence[tuple[Tensor, ...]]:
        """What all ranks have found of their batches, in the batches' order; the leader gets it."""
        return found
