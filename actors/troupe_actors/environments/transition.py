"""What stepping environments gives, whoever steps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray

from troupe import seeding
from troupe.episodes import Array, Columns
from troupe.policies import Spaces

_SEED_MASK = 0x7FFF_FFFF  # what environments written in C take


@dataclass(frozen=True, slots=True)
class Seeds:
    """Seeds of episodes, keyed by what they are for and never by the process that plays them."""

    seed: int
    role: str
    slot: int

    def of(self, environment: int, episode: int) -> int:
        """The seed, of 31 bits, of one episode of one environment."""
        return seeding.key(self.seed, self.role, self.slot, environment, episode) & _SEED_MASK


class Transition(NamedTuple):
    """One step of E environments. The arrays are the caller's to keep.

    An episode that ends is followed at once by the next: `observation` then holds the first
    observation of the new one, and the last of the old one is in `final` and nowhere else.
    """

    observation: Columns
    """By name, [E, ...]: what to act on next."""
    reward: NDArray[np.float32]
    """[E]: what the action brought; 0 in rows that were skipped."""
    terminated: NDArray[np.bool_]
    """[E]: nothing is worth anything after this step."""
    truncated: NDArray[np.bool_]
    """[E]: stopped from outside; never set where `terminated` is."""
    skipped: NDArray[np.int64]
    """[S]: rows in which nothing was played, mostly none. Their action led nowhere: record no step.

    Either the environment failed and was restarted (end its fragment before this step, bootstrapped
    from the observation that was acted on), or a vectorised one only began its next episode.
    """
    ended: NDArray[np.int64]
    """[K]: rows whose episode ended in this step."""
    final: Columns
    """By name, [K, ...]: the true last observation of those episodes."""
    returns: NDArray[np.float64]
    """[K]: sum of the rewards of those episodes, undiscounted."""
    lengths: NDArray[np.int64]
    """[K]: steps of those episodes."""


class Past(NamedTuple):
    """An episode of one environment up to some step."""

    episode: int
    """Its number, as keyed by `Seeds`."""
    actions: Array
    """[n, ...]: those of its n steps, as they were passed to `Driver.step`."""


def nothing_done(space: gym.Space[NDArray[np.generic]]) -> Array:
    """No actions of a space, [0, ...]."""
    return np.empty((0, *(space.shape or ())), space.dtype)


class Driver(Protocol):
    """E environments of one kind, stepped together."""

    name: str
    count: int
    """E, the number of environments."""
    spaces: Spaces
    """What travels: named columns of observations, and actions as the policy chooses them."""

    @property
    def restarts(self) -> int:
        """How often an environment failed and was restarted."""
        ...

    @property
    def episodes(self) -> NDArray[np.int64]:
        """[E]: the number of the episode that each environment plays, as keyed by `Seeds`."""
        ...

    def reset(self, seeds: Seeds, episodes: Sequence[int] | None = None) -> Columns:
        """Begin an episode in every environment, the first or those numbered; by name, [E, ...].

        Raises:
            EnvironmentFaultError: an environment always fails, or breaks its own spaces.
        """
        ...

    def resume(self, seeds: Seeds, pasts: Sequence[Past]) -> Columns:
        """Begin an episode in every environment and repeat its past; by name, [E, ...], what is seen.

        Raises:
            UserError: their episodes cannot each be begun from a seed.
            RepeatError: an episode ended or failed where it did not before.
            EnvironmentFaultError: as `reset`.
        """
        ...

    def step(self, actions: Array) -> Transition:
        """Act once in every environment; `actions` is [E, ...] of `spaces.action`, unpacked.

        Box actions may lie out of bounds: the environment sees them clipped, and what was passed
        is what is to be recorded and scored.

        Raises:
            EnvironmentFaultError: an environment always fails, or breaks its own spaces.
        """
        ...

    def close(self) -> None:
        """Let go of the environments; may be called twice."""
        ...
