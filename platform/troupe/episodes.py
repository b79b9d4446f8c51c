"""What travels from actors to learners: a packed block of fragments of episodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Columns = Mapping[str, Array]

TOKEN = "token"
PROMPT = "prompt"
REWARD = "reward/"
"""Of text: a column of `context`, one of `about`, and how the other names there begin."""


class Ending(IntEnum):
    """How a fragment ended."""

    CUT = 0
    """Its episode goes on in a later fragment of the same actor."""
    TERMINATED = 1
    """The episode is over: nothing is worth anything after it."""
    TRUNCATED = 2
    """The episode was stopped from outside: its future has a value."""


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """N fragments of episodes, all of one policy, laid end to end in S steps.

    Observations are raw, never normalised. A `MultiBinary` space of n values is a uint8 column of
    ceil(n / 8) bytes a row (`numpy.packbits`, little-endian bit order). The steps of a fragment
    are in order; fragment i holds `length[i]` of them.
    """

    policy: str
    """The policy that acted, and that learns from this."""
    actor: str
    """Role and slot of who played it, such as `actor-3`."""
    incarnation: int
    """How often that slot had been started before."""
    attempt: int
    """How often the run had been started before."""

    observation: Columns
    """By name, [S, ...]: what was seen before each action."""
    action: Columns
    """By name, [S, ...]: what was done."""
    reward: Array
    """float32 [S]: what came of it, for this seat, until its next step or the end."""
    log_prob: Array
    """float32 [S]: log-probability of the action under the distribution it was drawn from."""
    version: Array
    """uint32 [S]: version of the weights that chose the action."""

    length: Array
    """int32 [N]: steps in each fragment; they sum to S."""
    seat: Array
    """uint8 [N]: who acted, as an index into the game's seats (0 for a single agent)."""
    group: Array
    """int64 [N]: the deal or prompt that fragments have in common."""
    ending: Array
    """uint8 [N]: an `Ending`."""
    final: Columns = field(default_factory=dict)
    """By name, [N, ...]: the observation after the last step, where the algorithm needs one."""
    initial: Columns = field(default_factory=dict)
    """By name, [N, ...]: the recurrent state before the first step, where the policy has one."""
    context: Columns = field(default_factory=dict)
    """By name, flat arrays of any length of their own: what fragments have in common.

    Of text, `token`, int32 [T]: tokens that were read but not sampled, each group's prompt once, one
    after the other.
    """
    about: Columns = field(default_factory=dict)
    """By name, [N, ...]: what else is known of each fragment.

    Of text, `prompt`, int32 [N, 2]: where its prompt begins and ends in the context's `token`, the
    same for a group; and `reward/NAME`, float32 [N]: each component of its reward before it is
    weighted, NaN where that one failed.
    """
    turn: int = 0
    """In lockstep, the turn that this was played in; such a block may have no steps."""
    resume: bytes = b""
    """In lockstep, what the actor needs to play the next turn, as it was after this one.

    Of a game, which needs nothing, what came of games against opponents, see `league.payoffs`.
    """

    @property
    def steps(self) -> int:
        """S, the number of steps."""
        return int(self.reward.shape[0])

    @property
    def fragments(self) -> int:
        """N, the number of fragments."""
        return int(self.length.shape[0])

    @property
    def oldest(self) -> int:
        """The oldest version of the weights that acted in this block."""
        return int(self.version.min()) if self.steps else 0

    @property
    def newest(self) -> int:
        """The newest version of the weights that acted in this block."""
        return int(self.version.max()) if self.steps else 0

    @property
    def nbytes(self) -> int:
        """Bytes of all columns together, and of `resume`."""
        named = (self.observation, self.action, self.final, self.initial, self.context, self.about)
        columns = [array for columns in named for array in columns.values()]
        columns += [self.reward, self.log_prob, self.version]
        columns += [self.length, self.seat, self.group, self.ending]
        return sum(array.nbytes for array in columns) + len(self.resume)
