"""Experience replay (Lin, 1992): the newest steps of a policy, drawn again and again, in host memory.

A step is kept once, as it travelled: the observation after it is that of the step that followed.
Only where an episode was cut or truncated is the observation after it kept apart, and after a cut
only until the rest of the episode comes.
"""

from collections import deque
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from troupe.config import config
from troupe.episodes import Array, Columns, Ending, Episodes
from troupe.errors import TroupeError, UserError
from troupe.policies import Steps
from troupe_learners.algorithms import ACTIONS, OBSERVATION, Batch, Replay
from troupe_learners.priorities import SumTree, importance_weights, priorities

NEXT = "next."
"""Prefix of the columns of a sample that hold the observation after the window."""
_FINAL = "final."
_EPISODE_BITS = 40
"""The group of an environment's fragments is `environment << 40 | episode`."""

Rows = NDArray[np.int64]


@config
class Prioritised:
    """How much errors decide what is drawn (Schaul et al., 2016, arXiv:1511.05952)."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Exponent of the error; 0 draws uniformly."""
    beta: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Exponent of the importance weights; moves to 1 by the run's end."""


class Memory:
    """A ring of the newest `plan.capacity` steps of one policy.

    Steps are numbered 0, 1, ... in the order they come, and step i lies in row i mod capacity. The
    oldest are overwritten first, and a step comes before the one that follows it, so no window
    reaches a step that is no longer there.
    """

    def __init__(self, plan: Replay) -> None:
        self._plan = plan
        self._powers = np.power(plan.gamma, np.arange(plan.n_step + 1)).astype(np.float32)
        self._count = 0
        """Steps that ever came."""
        self._columns: dict[str, Array] = {}
        """By name, [capacity, ...]: observations, actions and the reward."""
        self._after = np.zeros(plan.capacity, np.int64)
        """[capacity]: where a step led. The row of the step that followed; its own row if the
        episode terminated; -1 - i if the observation after it is the i-th of `_finals`."""
        self._finals = _Finals()
        self._open: dict[int, tuple[int, int]] = {}
        """By stream: group and last step of a fragment that was cut."""
        self._blocks: deque[tuple[str, int]] = deque()
        """Ids of the blocks with steps in the ring, and the number behind the last step of each."""
        self._tree = None if plan.alpha is None else SumTree(plan.capacity)
        self._largest = 1.0
        """The largest priority that any step has had."""

    @property
    def steps(self) -> int:
        """How many steps are held."""
        return min(self._count, self._plan.capacity)

    @property
    def oldest(self) -> str | None:
        """The id of the oldest block that has steps in the ring."""
        return self._blocks[0][0] if self._blocks else None

    def add(self, id: str, block: Episodes, first_stream: int) -> None:  # noqa: A002
        """Take in the steps of a block; as many of the oldest make room.

        A fragment goes on from the last one of its stream if that was cut, is of the same episode,
        and was cut where this one begins.

        Args:
            id: the block's, in the store.
            block: its columns are copied.
            first_stream: the stream of its actor's first environment.

        Raises:
            UserError: the block has more steps than the ring.
            TroupeError: there is no final observation of a fragment that did not terminate.
        """
        capacity, steps = self._plan.capacity, block.steps
        if steps > capacity:
            raise UserError(
                f"algorithm.capacity: {capacity} is less than the {steps} steps of a block; "
                "raise it, or lower actors.rollout or actors.environments"
            )
        if not steps:
            return
        rows = (self._count + np.arange(steps)) % capacity
        overwritten = self._after[rows[capacity - self.steps :]]
        self._finals.free(-1 - overwritten[overwritten < 0])
        ends = np.cumsum(block.length, dtype=np.int64) - 1
        over = block.ending == Ending.TERMINATED
        after = (rows + 1) % capacity
        after[ends[over]] = rows[ends[over]]
        after[ends[~over]] = -1 - self._finals.put(_finals_of(block, ~over))
        self._after[rows] = after
        for name, values in _columns_of(block).items():
            if name not in self._columns:
                self._columns[name] = np.zeros((capacity, *values.shape[1:]), values.dtype)
            self._columns[name][rows] = values
        if self._tree is not None:
            self._tree[rows] = np.full(steps, self._largest)
        self._join(block, first_stream, ends)
        self._count += steps
        self._blocks.append((id, self._count))
        while self._blocks[0][1] <= self._count - capacity:
            self._blocks.popleft()

    def sample(self, count: int, random: np.random.Generator, progress: float) -> dict[str, Array]:
        """Draw steps, with replacement, each with the window of `plan.n_step` steps that it begins.

        A window ends early where its episode does, and where the rest has not come yet.

        Args:
            count: B.
            random: draws.
            progress: how much of the run is done, 0 to 1; moves beta to 1.

        Returns:
            By name, [B, ...]: `observation.NAME` and `action.NAME` of the steps; `reward` (float32)
            of their windows, discounted to the first step; `discount` (float32) of the value of the
            state after the window, 0 if it terminated; `next.NAME`, the observation of that state,
            of no meaning if it terminated; `index` (int64), for `update`; and where priorities are
            kept `weight` (float32), the importance weight, at most 1.

        Raises:
            ValueError: there is nothing to draw.
        """
        if not self._count:
            raise ValueError("an empty replay has nothing to draw")
        drawn: dict[str, Array] = {}
        if self._tree is None:
            index = random.integers(self.steps, size=count)
        else:
            index, probability = self._tree.sample(random, count)
            beta = self._plan.beta + (1.0 - self._plan.beta) * progress
            weight = importance_weights(probability, self.steps, beta)
            drawn["weight"] = weight.astype(np.float32)
        last, drawn["reward"], drawn["discount"] = self._windows(index)
        following = self._after[last]
        apart = np.flatnonzero(following < 0)
        for name, column in self._columns.items():
            if name == "reward":
                continue
            drawn[name] = column.take(index, 0)
            if name.startswith(OBSERVATION):
                name = name.removeprefix(OBSERVATION)
                seen = column.take(following, 0, mode="clip")
                if apart.size:
                    seen[apart] = self._finals.columns[name][-1 - following[apart]]
                drawn[NEXT + name] = seen
        return {**drawn, "index": index}

    def update(self, index: Rows, error: NDArray[np.floating]) -> None:
        """Give steps the priority of their newest error: int and float [B], of a sample."""
        if self._tree is None or self._plan.alpha is None:
            return
        priority = priorities(error.astype(np.float64), self._plan.alpha)
        self._tree[index] = priority
        self._largest = max(self._largest, float(priority.max(initial=0.0)))

    def state(self) -> dict[str, Array]:
        """A copy of all that later samples depend on, by name."""
        size = self.steps
        after = self._after[:size].copy()
        apart = np.flatnonzero(after < 0)
        finals = self._finals.columns.items()
        held = {_FINAL + name: column[-1 - after[apart]] for name, column in finals}
        after[apart] = -1 - np.arange(len(apart))
        held |= {name: column[:size].copy() for name, column in self._columns.items()}
        held["count"] = np.array([self._count])
        held["after"] = after
        cut = [(stream, *where) for stream, where in self._open.items()]
        held["open"] = np.array(cut, np.int64).reshape(-1, 3)
        held["blocks"] = np.array([end for _, end in self._blocks], np.int64)
        held["ids"] = np.frombuffer("\n".join(id_ for id_, _ in self._blocks).encode(), np.uint8)
        if self._tree is not None:
            held["priority"] = self._tree[np.arange(size)]
            held["largest"] = np.array([self._largest])
        return held

    def restore(self, columns: Columns) -> None:
        """Go on from what `state` gave, on a fresh memory of the same plan.

        Raises:
            TroupeError: it was of another capacity, or kept no priorities.
        """
        size = len(columns["after"])
        self._count = columns["count"].item()
        if size != self.steps:
            raise TroupeError(
                f"replay: {size} steps were saved of {self._count}, and "
                f"algorithm.capacity is {self._plan.capacity}; set it to what it was"
            )
        if self._tree is not None:
            if "priority" not in columns:
                raise TroupeError(
                    "replay: it was saved without priorities; draw uniformly as before"
                )
            self._tree[np.arange(size)] = columns["priority"]
            self._largest = columns["largest"].item()
        self._after[:size] = columns["after"]
        for name, values in columns.items():
            if name.startswith((OBSERVATION, ACTIONS)) or name == "reward":
                column = np.zeros((self._plan.capacity, *values.shape[1:]), values.dtype)
                column[:size] = values
                self._columns[name] = column
        finals = {n: values for n, values in columns.items() if n.startswith(_FINAL)}
        self._finals.put({name.removeprefix(_FINAL): values for name, values in finals.items()})
        self._open = {int(cut[0]): (int(cut[1]), int(cut[2])) for cut in columns["open"]}
        ids = columns["ids"].tobytes().decode().split("\n")
        self._blocks = deque(zip(ids, columns["blocks"].tolist(), strict=False))

    def _windows(self, index: Rows) -> tuple[Rows, Array, Array]:
        """The windows that begin at rows: their last row, reward and discount, each [B]."""
        reward = self._columns["reward"]
        last, total, taken = index, reward[index], np.ones(len(index), np.int64)
        for power in self._powers[1:-1]:
            following = self._after[last]
            goes_on = (following >= 0) & (following != last)
            last = np.where(goes_on, following, last)
            total += np.where(goes_on, power * reward[last], np.float32(0.0))
            taken += goes_on
        discount = np.where(self._after[last] == last, np.float32(0.0), self._powers[taken])
        return last, total, discount

    def _join(self, block: Episodes, first_stream: int, ends: Rows) -> None:
        """Let cut fragments go on in those of a block whose steps are just being taken in."""
        oldest = self._count + block.steps - self._plan.capacity
        starts = (ends + 1 - block.length).tolist()
        groups, cut = block.group.tolist(), (block.ending == Ending.CUT).tolist()
        for start, end, group, is_cut in zip(starts, ends.tolist(), groups, cut, strict=True):
            stream = first_stream + (group >> _EPISODE_BITS)
            of, step = self._open.pop(stream, (group, -1))
            if of == group and step >= max(oldest, 0):
                self._connect(step, self._count + start)
            if is_cut:
                self._open[stream] = (group, self._count + end)

    def _connect(self, step: int, following: int) -> None:
        """Let one step, the last of a cut fragment, lead to another, if that is where it led."""
        last, first = step % self._plan.capacity, following % self._plan.capacity
        place = -1 - self._after[last]
        seen = self._finals.columns.items()
        if all(np.array_equal(c[place], self._columns[OBSERVATION + n][first]) for n, c in seen):
            self._after[last] = first
            self._finals.free(np.array([place]))


class _Finals:
    """Observations kept apart, in as many places as were ever needed at once."""

    def __init__(self) -> None:
        self.columns: dict[str, Array] = {}
        """By name, [places, ...]."""
        self._free: list[int] = []
        self._places = 0

    def put(self, columns: Columns) -> Rows:
        """Keep K observations, by name [K, ...]; their places, int64 [K]."""
        count = len(next(iter(columns.values()))) if columns else 0
        if count > len(self._free):
            self._grow(columns, max(self._places, count))
        places = np.array([self._free.pop() for _ in range(count)], np.int64)
        for name, values in columns.items():
            self.columns[name][places] = values
        return places

    def free(self, places: Rows) -> None:
        """Let go of what is kept at places: int64 [K]."""
        self._free += places.tolist()

    def _grow(self, like: Columns, more: int) -> None:
        for name, values in like.items():
            room = np.zeros((more, *values.shape[1:]), values.dtype)
            held = self.columns.get(name, room[:0])
            self.columns[name] = np.concatenate([held, room])
        self._free = [*range(self._places + more - 1, self._places - 1, -1), *self._free]
        self._places += more


def following(batch: Batch) -> Steps:
    """The states after the windows of a sample, to be evaluated."""
    seen = {n: column for n, column in batch.step.items() if n.startswith(NEXT)}
    return Steps({name.removeprefix(NEXT): column for name, column in seen.items()})


def _columns_of(block: Episodes) -> dict[str, Array]:
    held = {OBSERVATION + name: column for name, column in block.observation.items()}
    held |= {ACTIONS + name: column for name, column in block.action.items()}
    return {**held, "reward": block.reward}


def _finals_of(block: Episodes, wanted: NDArray[np.bool_]) -> Mapping[str, Array]:
    """The final observations of some fragments: bool [N] to columns by name, none for none."""
    if not wanted.any():
        return {}
    if block.final.keys() != block.observation.keys():
        raise TroupeError(
            f"replay: a block of {block.actor} for {block.policy} has fragments that did not "
            "terminate, without the observation that they ended with"
        )
    return {name: column[wanted] for name, column in block.final.items()}
