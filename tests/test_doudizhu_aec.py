"""The PettingZoo environment and the drawing of a table."""

import numpy as np
import pytest
from pettingzoo.test import api_test, seed_test

from troupe_actors.games.doudizhu import Rules, Tables, aec, render
from troupe_actors.games.doudizhu.names import parse_move


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rules", [Rules(), Rules(both_jokers_kicker=True, four_with_two=False)])
def test_it_is_a_pettingzoo_environment(rules: Rules) -> None:
    api_test(aec.env(rules=rules), num_cycles=200)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_seed_gives_the_same_games() -> None:
    seed_test(aec.env, num_cycles=60)


def test_a_game_is_played_to_its_end() -> None:
    env = aec.env()
    env.reset(seed=3)
    totals = dict.fromkeys(env.possible_agents, 0.0)
    movers = []
    for agent in env.agent_iter():
        observation, reward, terminated, truncated, _ = env.last()
        totals[agent] += reward
        assert not truncated
        if terminated:
            env.step(None)
            continue
        movers.append(agent)
        assert observation["observation"].shape == env.observation_space(agent)["observation"].shape
        waiting = next(other for other in env.agents if other != agent)
        assert not env.observe(waiting)["action_mask"].any()
        env.step(env.action_space(agent).sample(observation["action_mask"]))
    assert movers[:4] == ["landlord", "landlord_down", "landlord_up", "landlord"]
    assert abs(totals["landlord"]) >= 1
    assert totals["landlord_down"] == totals["landlord_up"] == -totals["landlord"]


def test_the_mask_is_the_legal_moves() -> None:
    env = aec.env(rules=Rules(four_with_two=False))
    env.reset(seed=1)
    legal = np.flatnonzero(env.observe("landlord")["action_mask"])
    names = [env.unwrapped.describe(int(action)) for action in legal]
    assert "pass" not in names
    assert len(set(names)) == len(names) > 20


def test_games_follow_one_another_and_seeds_start_over() -> None:
    env = aec.env()
    env.reset(seed=5)
    first = env.observe("landlord")["observation"]
    env.reset()
    assert not np.array_equal(env.observe("landlord")["observation"], first)
    env.reset(seed=5)
    np.testing.assert_array_equal(env.observe("landlord")["observation"], first)


def test_a_move_that_is_not_legal_changes_nothing() -> None:
    env = aec.env()
    env.reset(seed=2)
    before = env.observe("landlord")
    for action, message in ((0, r"action 0 \(pass\) is not legal now"), (99_999, "not one of")):
        with pytest.raises(ValueError, match=message):
            env.step(action)
    assert env.agent_selection == "landlord"
    for name, column in env.observe("landlord").items():
        np.testing.assert_array_equal(column, before[name])


def test_modes_of_rendering(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="'pixels'"):
        aec.env("pixels")
    for mode in (None, "ansi", "human"):
        env = aec.env(mode)
        env.reset(seed=1)
        env.step(int(np.flatnonzero(env.observe("landlord")["action_mask"])[0]))
        shown, printed = env.render(), capsys.readouterr().out
        assert isinstance(shown, str) == (mode == "ansi")
        assert bool(printed) == (mode == "human")
        env.close()


def play(moves: list[str]) -> Tables:
    """The table after these moves, from hands in which they can be made."""
    hands = ["3334445 6666 TJQKAA22B", "35777888 99TJQKKKA", "4557899 TTJJQQA22R"]
    tables = Tables(1, Rules(), 0, skip_forced=False)
    turn = tables.deal(np.array([[parse_move(hand) for hand in hands]], np.uint64))
    for move in moves:
        turn = tables.play(np.flatnonzero(turn.moves == parse_move(move)))
    return tables


def test_a_table_is_drawn_from_one_side() -> None:
    start = render.text(play([]).view(0, 1))
    assert "landlord leads" in start
    assert "20" in start
    later = render.text(play(["5", "7", "R", "pass"]).view(0, 0))
    assert "landlord_down to beat landlord_up's R" in later
    assert "hand    333 444 6666 T J Q K AA 22 B" in later
    assert "unseen  3 4 555 777 8888 " in later
    mine = render.text(play(["333444+56", "pass"]).view(0, 2))
    assert "you to beat landlord's 333444+56" in mine
    led = render.text(play(["5", "7", "R", "pass", "pass"]).view(0, 2))
    assert "you lead" in led
    bomb = render.text(play(["5", "7", "R", "6666"]).view(0, 0))
    assert "1 bomb" in bomb
