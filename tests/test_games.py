"""What the tables of every game keep to."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from troupe_actors import games
from troupe_actors.games import WAIT, Turn

GAMES: dict[str, dict[str, Any]] = {
    "doudizhu": {},
    "openspiel": {"game": "leduc_poker"},
    "pettingzoo": {"environment": "pettingzoo.classic.tictactoe_v3"},
}


def tables_of(name: str, *, skip_forced: bool) -> games.Tables:
    return games.load(name, GAMES[name]).tables(6, 1, skip_forced=skip_forced)


def one_by_one(turn: Turn) -> list[tuple[Any, ...]]:
    """Each table as it stands."""
    return [
        (
            turn.seat[t],
            turn.group[t],
            turn.moves[start:end].tolist(),
            turn.legal[start:end].tolist(),
            {name: column[t].tolist() for name, column in turn.observation.items()},
        )
        for t, (start, end) in enumerate(zip(turn.offsets, turn.offsets[1:], strict=False))
    ]


def ends(*turns: tuple[NDArray[np.int64], NDArray[np.float32]]) -> list[tuple[int, list[float]]]:
    """The games that ended, by table."""
    found = [zip(f.tolist(), p.tolist(), strict=True) for f, p in turns]
    return sorted(end for each in found for end in each)


@pytest.mark.parametrize("skip_forced", [True, False])
@pytest.mark.parametrize("name", GAMES)
def test_a_table_that_waits_stays_as_it_is(name: str, skip_forced: bool) -> None:
    some, every = (tables_of(name, skip_forced=skip_forced) for _ in range(2))
    waiting = np.array([False, True] * 3)
    random = np.random.default_rng(3)
    for _ in range(100):
        turn = some.turn()
        choice = random.integers(np.diff(turn.offsets))
        stood = one_by_one(turn)
        half = some.play(np.where(waiting, WAIT, choice))
        moved, first = one_by_one(half), (half.finished, half.payoff)
        assert [moved[t] for t in np.flatnonzero(waiting)] == [
            stood[t] for t in np.flatnonzero(waiting)
        ]
        assert half.reward is None or not half.reward[waiting].any()
        rest = some.play(np.where(waiting, choice, WAIT))
        whole = every.play(choice)
        assert one_by_one(rest) == one_by_one(whole)
        assert ends(first, (rest.finished, rest.payoff)) == ends((whole.finished, whole.payoff))
    assert (some.decisions, some.forced) == (every.decisions, every.forced)


@pytest.mark.parametrize("wrong", [-2, 10_000])
@pytest.mark.parametrize("name", GAMES)
def test_a_choice_out_of_range_moves_no_table(name: str, wrong: int) -> None:
    tables = tables_of(name, skip_forced=False)
    before, choice = one_by_one(tables.turn()), np.zeros(6, np.int64)
    choice[2] = wrong
    with pytest.raises(ValueError, match=f"choice {wrong} on table 2, which has .* legal moves"):
        tables.play(choice)
    assert one_by_one(tables.turn()) == before
    assert (tables.decisions, tables.forced) == (0, 0)
