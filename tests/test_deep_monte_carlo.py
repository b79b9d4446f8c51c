"""Deep Monte Carlo: its targets against golden numbers, and a small game whose values are known."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from troupe.config import parse
from troupe.episodes import Ending, Episodes
from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import NetworkSettings
from troupe.policies import ACTION, Spaces, Steps
from troupe_learners import algorithms
from troupe_learners.algorithms import Batch, Roles
from troupe_learners.batches import Piece
from troupe_learners.deep_monte_carlo import Algorithm, Config, target
from troupe_learners.trainee import Hardware, Trainee

CPU = torch.device("cpu")
GUESS = Spaces({"state": spaces.MultiBinary(8)}, spaces.MultiBinary(8))


def guesses(games: int, seed: int, ending: Ending = Ending.TERMINATED) -> Episodes:
    """Three guesses a game; every hint is a bit, and the game is won if the last guess is right.

    So Q(s, a) is +-1 at the last step and the share of games won, less that lost, before.
    """
    random = np.random.default_rng(seed)
    hint = random.integers(0, 2, 3 * games)
    last = np.tile([False, False, True], games)
    guess = random.integers(0, 2, 3 * games)
    won = np.where(guess == hint, 4.0, -4.0)
    return Episodes(
        policy="guesser",
        actor="actor-0",
        incarnation=0,
        attempt=1,
        observation={"state": (hint + 2 * last).astype(np.uint8)[:, None]},
        action={ACTION: guess.astype(np.uint8)[:, None]},
        reward=np.where(last, won, 0.0).astype(np.float32),
        log_prob=np.full(3 * games, np.log(0.5), np.float32),
        version=np.zeros(3 * games, np.uint32),
        length=np.full(games, 3, np.int32),
        seat=np.zeros(games, np.uint8),
        group=np.arange(games, dtype=np.int64),
        ending=np.full(games, ending, np.uint8),
    )


def test_golden_targets() -> None:
    """Payoffs of games without a bomb, with one and with two, won and lost; and a draw."""
    payoff = torch.tensor([1.0, -1.0, 2.0, -2.0, 4.0, -4.0, 0.0])
    assert target(payoff, "wp").tolist() == [1, -1, 1, -1, 1, -1, 0]
    assert target(payoff, "adp").tolist() == [1, -1, 2, -2, 4, -4, 0]
    assert target(payoff, "log-adp").tolist() == [1, -1, 2, -2, 3, -3, 0]


def test_every_step_is_credited_with_the_final_payoff() -> None:
    block = guesses(5, seed=0)
    credit = Algorithm(Config()).credit(block)
    np.testing.assert_array_equal(credit["return"], np.repeat(block.reward[2::3], 3))


@pytest.mark.parametrize("ending", [Ending.CUT, Ending.TRUNCATED])
def test_episodes_without_their_end_are_refused(ending: Ending) -> None:
    with pytest.raises(TroupeError, match=r"actor-0 for guesser .* cut or truncated"):
        Algorithm(Config()).credit(guesses(2, seed=0, ending=ending))


def roles(trainee: Trainee) -> Roles:
    return Roles(trainee.policy, trainee.policy, 0.0, lambda tensor: tensor, torch.Generator())


def test_the_loss_is_the_mean_squared_error() -> None:
    algorithm = Algorithm(Config(objective="adp"))
    network = NetworkSettings(hidden=4, layers=1, recurrent=0)
    trainee = Trainee("guesser", GUESS, network, algorithm, Hardware(CPU, torch.float32), seed=1)
    batch = algorithm.prepare(Batch({}, {}, {"return": torch.tensor([4.0, -2.0])}), roles(trainee))
    outputs = torch.tensor([1.0, 0.0], requires_grad=True)
    loss = algorithm.loss("all", {"value": outputs}, batch, algorithms.Totals(steps=2))
    assert loss.total.item() == pytest.approx((9 + 4) / 2)
    assert loss.metrics["value"].item() == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(loss.total, outputs)
    assert gradient.tolist() == pytest.approx([-3.0, 2.0])


def test_defaults_are_the_papers() -> None:
    settings = Config()
    assert settings.optimizer.name == "rmsprop"
    assert (settings.optimizer.lr, settings.optimizer.alpha, settings.optimizer.eps) == (1e-4, 0.99, 1e-5)  # fmt: skip
    assert (settings.objective, settings.batch, settings.max_grad_norm) == ("wp", 3200, 40.0)


def test_an_algorithm_is_found_by_its_name() -> None:
    options = {"name": "deep_monte_carlo", "batch": 10, "optimizer": {"name": "sgd", "lr": 0.5}}
    algorithm = algorithms.load(options)
    assert isinstance(algorithm, Algorithm)
    (group,) = algorithm.plan.groups
    assert (algorithm.plan.batch, group.optimizer.name) == (10, "sgd")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "algorithm.name: missing"),
        ({"name": "deep_monte_karlo"}, "algorithm.name: no 'deep_monte_karlo'; did you mean"),
        ({"name": "losses"}, "algorithm.name: 'losses' is no algorithm"),
        ({"name": "deep_monte_carlo", "objective": "win"}, "algorithm.objective: 'win'"),
        ({"name": "deep_monte_carlo", "bacth": 3}, "algorithm.bacth: unknown key; did you mean 'batch'?"),
        ({"name": "deep_monte_carlo", "batch": 0}, "algorithm.batch: 0 is not right"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError) as caught:
        algorithms.load(options)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_the_values_of_a_small_game(dtype: torch.dtype) -> None:
    """Q is +-1 where the last guess decides, and 0 where a coin thrown later does."""
    options = {"batch": 600, "micro_batch": 256, "optimizer": {"name": "adam", "lr": 0.003}}
    algorithm = Algorithm(parse(Config, options))
    network = NetworkSettings(hidden=32, layers=2, recurrent=8)
    trainee = Trainee("guesser", GUESS, network, algorithm, Hardware(CPU, dtype), seed=1)
    for turn in range(120):
        block = guesses(200, seed=turn)
        metrics = trainee.train([Piece(block, algorithm.credit(block))], 0.0)
    # Two of three steps have a target of +-1 that nobody can foresee.
    assert metrics["loss"] == pytest.approx(2 / 3, abs=0.06)
    state, action = (
        torch.tensor([[bits] for bits in column], dtype=torch.uint8)
        for column in zip(*[(s, a) for s in range(4) for a in range(2)], strict=True)
    )
    with torch.no_grad():
        values = trainee.policy.evaluate(Steps({"state": state}, action), ["value"])[
            "value"
        ].tolist()
    coin, decided = values[:4], values[4:]
    assert coin == pytest.approx([0] * 4, abs=0.2)
    assert decided == pytest.approx([1, -1, -1, 1], abs=0.15)
