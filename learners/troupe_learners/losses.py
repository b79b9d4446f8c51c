"""Losses: pure functions on tensors. Denominators are given, so micro-batches add up exactly."""

from torch import Tensor


def mean_square(prediction: Tensor, target: Tensor, count: int) -> Tensor:
    """This micro-batch's share of the mean squared error over `count` steps.

    Args:
        prediction: float [S].
        target: float [S].
        count: steps in the whole minibatch, of which these S are a part.

    Returns:
        A scalar; the shares of all micro-batches sum to the mean over the minibatch.
    """
    return (prediction - target).square().sum() / count
