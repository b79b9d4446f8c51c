"""The target network: a copy of the policy that follows it slowly (Lillicrap et al., 2016)."""

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import nn

from troupe.episodes import Array
from troupe.errors import TroupeError
from troupe.policies import Policy
from troupe_learners.flat import FlatModule


class TargetNetwork:
    """Moves a share of the way to the policy, in one operation.

    Statistics that are no parameters are the policy's own.

    Args:
        module: the policy.
        flat: where its parameters lie.
        groups: names of its groups, in the order in which they lie there.
        tau: the share; 1 copies the policy.
        every: it moves when the policy was stepped so many times.
    """

    def __init__(
        self, module: nn.Module, flat: FlatModule, groups: Sequence[str], tau: float, every: int
    ) -> None:
        copied = copy.deepcopy(module)
        self.policy = cast(Policy, copied)
        self._flat = FlatModule(copied, [self.policy.group(name) for name in groups])
        copied.requires_grad_(False)
        self._policy = flat
        self._tau = tau
        self._every = every
        _share_buffers(copied, module)

    def follow(self, steps: int) -> None:
        """Move, if it is time: so many optimizer steps were made."""
        if steps % self._every:
            return
        if self._tau == 1.0:
            self._flat.values.copy_(self._policy.values)
        else:
            self._flat.values.lerp_(self._policy.values, self._tau)

    def state(self) -> Array:
        """A copy of its parameters, float32 [P], in host memory."""
        return self._flat.values.to("cpu", copy=True).numpy()

    def load_state(self, values: Array) -> None:
        """Take what `state` gave.

        Raises:
            TroupeError: they are not as many.
        """
        if values.shape != tuple(self._flat.values.shape):
            raise TroupeError(
                f"target: {values.size} parameters, this network has {len(self._flat.values)}"
            )
        self._flat.values.copy_(torch.from_numpy(np.array(values)))


def _share_buffers(copied: nn.Module, module: nn.Module) -> None:
    """Let the copy have the buffers of the original, not its own."""
    for place, original in zip(copied.modules(), module.modules(), strict=True):
        for name, buffer in original.named_buffers(recurse=False):
            setattr(place, name, buffer)
