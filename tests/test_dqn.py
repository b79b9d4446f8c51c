"""DQN: targets and losses against a loop over steps."""

from collections.abc import Collection
from typing import cast

import pytest
import torch
from gymnasium import spaces as gym
from torch import Tensor, nn

from troupe.config import parse
from troupe.errors import UserError
from troupe.policies import Policy, Spaces, Steps
from troupe_learners.algorithms import Batch, Roles, Totals
from troupe_learners.dqn import Algorithm, Config, defaults


class Plain(nn.Module):
    """Values of four actions, the third of which is illegal where x begins with a negative number."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(3, 4)

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        x = steps.observation["x"]
        values = self.layer(x)
        if "values" in want:
            illegal = (x[:, :1] < 0) & (torch.arange(4) == 2)
            return {"values": values.masked_fill(illegal, -torch.inf)}
        assert steps.action is not None
        return {"value": values.gather(1, steps.action[:, None]).squeeze(1)}


def batch_of(steps: int, *, weighted: bool) -> Batch:
    torch.manual_seed(1)
    step = {
        "reward": 3.0 * torch.randn(steps),
        "discount": torch.where(torch.rand(steps) < 0.3, 0.0, 0.9),
        "next.x": torch.randn(steps, 3),
    }
    if weighted:
        step["weight"] = torch.rand(steps)
    return Batch({"x": torch.randn(steps, 3)}, {"action": torch.randint(4, (steps,))}, step)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("huber", [0.5, None])
@pytest.mark.parametrize("weighted", [True, False])
def test_targets_and_loss_are_those_of_a_loop_over_steps(
    double: bool, huber: float | None, weighted: bool
) -> None:
    policy, target, batch = Plain(2), Plain(3), batch_of(25, weighted=weighted)
    algorithm = Algorithm(parse(Config, {"double": double, "huber": huber}))
    roles = Roles(
        policy=cast(Policy, policy),
        target=cast(Policy, target),
        progress=0.0,
        add_up=lambda tensor: tensor,
        random=torch.Generator(),
    )
    with torch.no_grad():
        prepared = algorithm.prepare(batch, roles)
    outputs = policy.evaluate(prepared.evaluated(), {"value"})
    loss = algorithm.loss("all", outputs, prepared, Totals(25))

    total, errors = torch.zeros(()), []
    for i in range(25):
        after = batch.step["next.x"][i]
        legal = [a for a in range(4) if a != 2 or after[0] >= 0]
        own, slow = policy.layer(after).tolist(), target.layer(after).tolist()
        best = slow[max(legal, key=(own if double else slow).__getitem__)]
        y = batch.step["reward"][i].item() + batch.step["discount"][i].item() * best
        assert prepared.step["target"][i].item() == pytest.approx(y, rel=1e-5)
        error = (policy.layer(batch.observation["x"][i])[batch.action["action"][i]] - y).abs()
        errors.append(error.detach())
        near = huber is None or error.item() <= huber
        term = 0.5 * error**2 if near else huber * (error - 0.5 * huber)
        total = total + (batch.step["weight"][i] if weighted else 1.0) * term / 25
    torch.testing.assert_close(loss.total, total)
    parameters = list(policy.parameters())
    for got, right in zip(
        torch.autograd.grad(loss.total, parameters),
        torch.autograd.grad(total, parameters),
        strict=True,
    ):
        torch.testing.assert_close(got, right)
    if weighted:
        torch.testing.assert_close(loss.priority, torch.stack(errors))
    else:
        assert loss.priority is None


def test_the_plan_says_when_the_target_network_moves() -> None:
    plan = Algorithm(Config()).plan
    assert (plan.tau, plan.target_every) == (1.0, 250)
    slow = Algorithm(parse(Config, {"tau": 0.01, "target_every": 1, "prioritised": {}})).plan
    assert (slow.tau, slow.target_every) == (0.01, 1)
    assert slow.replay is not None
    assert slow.replay.alpha == 0.6


def test_it_fits_numbered_actions_only() -> None:
    seen = {"x": gym.Box(-1, 1, (3,))}
    settings = defaults(parse(Config, {"duelling": True}), Spaces(seen, gym.Discrete(3)))
    network = settings["network"]
    assert isinstance(network, dict)
    assert (network["kind"], network["duelling"]) == ("discrete_value", True)
    with pytest.raises(UserError, match=r"algorithm.name: dqn values actions that are Discrete"):
        defaults(Config(), Spaces(seen, gym.Box(-1, 1, (2,))))
