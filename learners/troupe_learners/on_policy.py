"""What algorithms that learn from their own policy's steps have in common."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from troupe.episodes import Ending
from troupe.errors import UserError
from troupe.policies import ACTION, Policy
from troupe.policies.normaliser import Moments
from troupe_learners import batches
from troupe_learners.algorithms import Batch, Loss, Roles, Totals, same
from troupe_learners.kl import k3
from troupe_learners.losses import actor_critic, policy_gradient, value_error
from troupe_learners.returns import last_steps, linear_recurrence

DEFAULTS: Mapping[str, object] = {
    "network": {
        "kind": "actor_critic",
        "hidden": 64,
        "layers": 2,
        "activation": "tanh",
        "recurrent": 0,
    },
    "actors": {"exploration": 1.0, "exploration_start": 1.0, "exploration_decay": 0},
    "learner": {"precision": "fp32"},
}
"""A small network of a policy and its critic, for which nothing else is faster; actors always draw
from the policy."""

_CARRIED = "return."


class Stochastic(Policy, Protocol):
    """A policy with a distribution of actions in every state, and normalisers."""

    @property
    def returns(self) -> Moments | None:
        """Moments of running returns, if rewards are normalised."""
        ...

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """KL(p||q), float [S], of two `distribution`s [S, parameters]."""
        ...

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        """Merge a batch's observations, if they are normalised."""
        ...

    def observe_returns(self, returns: Tensor, add_up: Callable[[Tensor], Tensor]) -> None:
        """Merge running returns, float [S], if rewards are normalised."""
        ...

    def reward_scale(self) -> Tensor:
        """What rewards are to be multiplied by, a scalar."""
        ...


def stochastic(policy: Policy, algorithm: str) -> Stochastic:
    """The same policy, known to be stochastic.

    Raises:
        UserError: it is of another kind.
    """
    if not hasattr(policy, "kl"):  # isinstance asks a protocol's every member, every time
        raise UserError(
            f"network.kind: {algorithm} needs a distribution of actions and a value of states; "
            "actor_critic has them"
        )
    return cast(Stochastic, policy)


class Look(NamedTuple):
    """What a policy says of S steps of N fragments."""

    steps: Mapping[str, Tensor]
    """By name, [S, ...]: `value` and what else was asked."""
    bootstrap: Tensor
    """float [N]: value of the state after each fragment's last step, also where it terminated."""


def look(
    batch: Batch,
    policy: Policy,
    want: Collection[str],
    limit: int | None,
    passes: Callable[[int], int] = same,
) -> Look:
    """Evaluate a batch and the states that its fragments ended in, as `evaluated` does.

    A completion is judged as it is, also one that was cut at the most tokens: nothing comes after it.
    """
    if batch.context:
        read = evaluated(batch, policy, {"value", *want}, limit, passes)
        return Look(read, torch.zeros_like(batch.fragment["length"], dtype=torch.float32))
    longer, own, ends = _interleaved(batch) if batch.initial else _extended(batch)
    outputs = evaluated(longer, policy, {"value", *want}, limit, passes)
    steps = {name: tensor[own] for name, tensor in outputs.items()}
    return Look(steps, outputs["value"][ends])


def _extended(batch: Batch) -> tuple[Batch, slice, slice]:
    """A batch with the final observations behind its S steps, to value all in one pass.

    A batch without final observations has only fragments that terminated. Nothing is worth anything
    after them, so what is seen there does not matter: their last step is repeated.

    Returns:
        Batch: of S + N steps; at the last N nothing is done.
        slice: where the batch's own steps lie in it.
        slice: where the final observations lie.
    """
    steps, final = batch.steps, _final(batch)
    action = batch.action[ACTION]
    nothing = action.new_zeros((len(batch.fragment["length"]), *action.shape[1:]))
    longer = Batch(
        observation={n: torch.cat([column, final[n]]) for n, column in batch.observation.items()},
        action={ACTION: torch.cat([action, nothing])},
        step={"row": torch.arange(steps + len(nothing), device=action.device)},
    )
    return longer, slice(steps), slice(steps, None)


def _interleaved(batch: Batch) -> tuple[Batch, Tensor, Tensor]:
    """The same for a policy that remembers: each final observation behind its own fragment.

    Returns:
        Batch: of S + N steps.
        int64 [S]: where the batch's own steps lie in it.
        int64 [N]: where the final observations lie.
    """
    length, final = batch.fragment["length"], _final(batch)
    ends = (length + 1).cumsum(0) - 1
    ours = torch.ones(batch.steps + len(length), dtype=torch.bool, device=length.device)
    ours[ends] = False
    rows = ours.nonzero().squeeze(1)

    def spread(column: Tensor, last: Tensor | None) -> Tensor:
        both = column.new_zeros((len(ours), *column.shape[1:]))
        both[rows] = column
        if last is not None:
            both[ends] = last
        return both

    longer = Batch(
        observation={n: spread(column, final[n]) for n, column in batch.observation.items()},
        action={ACTION: spread(batch.action[ACTION], None)},
        step={"row": torch.arange(len(ours), device=length.device)},
        fragment={"length": length + 1},
        initial=batch.initial,
    )
    return longer, rows, ends


def _final(batch: Batch) -> Mapping[str, Tensor]:
    """By name, [N, ...]: the observation after each fragment, where it matters."""
    last = last_steps(batch.fragment["length"])
    return batch.final or {name: column[last] for name, column in batch.observation.items()}


def evaluated(
    batch: Batch,
    policy: Policy,
    want: Collection[str],
    limit: int | None,
    passes: Callable[[int], int] = same,
) -> dict[str, Tensor]:
    """What a policy says of a batch, by name [S, ...], at most `limit` steps at once.

    Where the policy is recurrent or reads a context, a fragment is never divided. `passes` is that
    of `Roles`.
    """
    told = [
        (policy.evaluate(part.evaluated(), want), counts)
        for part, counts in batches.passed(batch, limit, passes, whole=batch.whole)
    ]
    parts = [outputs for outputs, counts in told if counts]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def gradient_loss(
    outputs: Mapping[str, Tensor],
    minibatch: Batch,
    totals: Totals,
    *,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Loss:
    """The policy gradient along the column `advantage`, and the critic's error from `target`."""
    step, entropy = minibatch.step, outputs["entropy"]
    policy = policy_gradient(outputs["log_prob"], step["advantage"])
    value = value_error(outputs["value"], step["target"])
    term = actor_critic(
        policy,
        value,
        entropy,
        value_coefficient=value_coefficient,
        entropy_coefficient=entropy_coefficient,
    )
    looks = {"policy_loss": policy, "value_loss": value, "entropy": entropy}
    return Loss(term.sum() / totals.steps, means(looks, totals.steps))


@torch.no_grad()
def beside(log_prob: Tensor, begun: Tensor, step: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of text, float [S] each: how far trainer and sampler differ, and policy and reference.

    Args:
        log_prob: float [S], the policy's.
        begun: float [S], the policy's as the batch began.
        step: columns of the batch.
    """
    looks = {"log_prob_gap": (begun - step["log_prob"]).abs()}
    if "reference" in step:
        looks["kl"] = k3(log_prob, step["reference"])
    return looks


@torch.no_grad()
def means(looks: Mapping[str, Tensor], steps: int) -> dict[str, Tensor]:
    """By name, float [S] to a scalar: its share of the mean over `steps` steps."""
    sums = torch.stack([*looks.values()]).sum(1) / steps
    return dict(zip(looks, sums.unbind(), strict=True))


class Measures:
    """Feeds a policy's normalisers; what is left open between batches is part of a checkpoint.

    Observations are merged after a batch's last epoch: it is trained on with the statistics that
    its actors had, so that a ratio of probabilities begins at 1. Rewards are nothing that a policy
    acts on, so they are merged before they are scaled, the first batch by its own deviation.
    """

    def __init__(self, gamma: float) -> None:
        self._returns = RunningReturns(gamma)

    def rewards(self, batch: Batch, policy: Stochastic, roles: Roles) -> Tensor:
        """float [S]: rewards as they are to be learned from."""
        reward = batch.step["reward"]
        if policy.returns is None:
            return reward
        policy.observe_returns(self._returns(batch).to(reward.device), roles.add_up)
        return reward * policy.reward_scale()

    def after(self, batch: Batch, policy: Stochastic, roles: Roles) -> dict[str, Tensor]:
        """Merge a batch that was trained on; scalars to look at."""
        policy.observe(batch.observation, roles.add_up)
        return {"explained_variance": explained_variance(batch, roles)}

    def state(self) -> dict[str, float]:
        """Returns that go on, by stream."""
        return {f"{_CARRIED}{stream}": value for stream, value in self._returns.open.items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave; other names are not read."""
        self._returns.open = {
            int(name.removeprefix(_CARRIED)): value
            for name, value in state.items()
            if name.startswith(_CARRIED)
        }


class RunningReturns:
    """The discounted return so far of every stream of fragments, as rewards come in.

    R_t = r_t + gamma R_{t-1}, from 0 at an episode's beginning: its deviation is the scale of
    rewards (Engstrom et al., 2020, arXiv:2005.12729, section 3). Fragments of one episode follow
    one another in a stream, within a batch and from batch to batch.
    """

    def __init__(self, gamma: float) -> None:
        self._gamma = gamma
        self.open: dict[int, float] = {}
        """By stream, the return at the end of its last fragment, where its episode goes on."""

    def __call__(self, batch: Batch) -> Tensor:
        """float64 [S], in host memory, of the batch that comes next."""
        reward = batch.step["reward"].double().cpu()
        length = batch.fragment["length"].cpu()
        start = last_steps(length) + 1 - length
        factor = torch.full_like(reward, self._gamma)
        factor[start] = 0.0
        within = linear_recurrence(reward.flip(0), factor.flip(0)).flip(0)
        before = self._carry(batch, within[last_steps(length)].tolist())
        time = torch.arange(len(reward)) - start.repeat_interleave(length)
        return within + before.repeat_interleave(length) * self._gamma ** (time + 1)

    def _carry(self, batch: Batch, last: list[float]) -> Tensor:
        """float64 [N]: with what each fragment begins. Whatever is open at its end is kept."""
        carried = []
        lengths, endings, streams = (
            batch.fragment[name].tolist() for name in ("length", "ending", "stream")
        )
        for own, length, ending, stream in zip(last, lengths, endings, streams, strict=True):
            before = self.open.pop(stream, 0.0)
            carried.append(before)
            if ending == Ending.CUT:
                self.open[stream] = own + before * self._gamma**length
        return torch.tensor(carried, dtype=torch.float64)


def explained_variance(batch: Batch, roles: Roles) -> Tensor:
    """1 - Var(target - value) / Var(target) over all ranks: 1 is a perfect critic, 0 a constant one.

    `value` is what the critic said before it was trained on the batch. A scalar; 0 where the targets
    do not vary.
    """
    value, target = batch.step["value"], batch.step["target"]
    both = torch.stack([target - value, target]).double()
    counts = torch.full((2,), both.shape[1], dtype=both.dtype, device=both.device)
    count, total, squares = roles.add_up(torch.stack([counts, both.sum(1), both.square().sum(1)]))
    error, whole = (squares / count - (total / count).square()).unbind()
    return torch.where(whole > 0.0, 1.0 - error / whole, 0.0).float()
