"""OpenSpiel's games as tables: what is shown is OpenSpiel's own, and chance follows from the seed."""

import numpy as np
import pytest

from troupe.errors import UserError
from troupe_actors import arena, deals, games
from troupe_actors.agents import random as random_agent

pyspiel = pytest.importorskip("pyspiel")

from troupe_actors.games import openspiel  # noqa: E402
from troupe_actors.games.openspiel import stages  # noqa: E402

GAMES = ["kuhn_poker", "leduc_poker", "liars_dice", "gin_rummy", "hanabi", "hearts", "tic_tac_toe"]


def game(name, **rules):
    return games.load("openspiel", {"game": name, **rules})


def turns(tables, count, seed=0):
    """Positions of random play, each with the choice that is made there."""
    random = np.random.default_rng(seed)
    turn = tables.turn()
    for _ in range(count):
        choice = random.integers(np.diff(turn.offsets))
        yield turn, choice
        turn = tables.play(choice)


def unpacked(turn, actions):
    mask = turn.observation["action_mask"]
    return np.unpackbits(mask, axis=1, count=actions, bitorder="little")


@pytest.mark.parametrize("name", GAMES)
def test_positions_are_what_openspiel_says(name):
    played = game(name)
    tables = played.tables(3, 5)
    for turn, _ in turns(tables, 120):
        for t, stage in enumerate(tables._stages):
            state, seat = stage.state, turn.seat[t]
            legal = turn.legal[turn.offsets[t] : turn.offsets[t + 1]]
            assert state.current_player() == seat
            assert legal.tolist() == state.legal_actions(seat)
            assert np.flatnonzero(unpacked(turn, played.actions)[t]).tolist() == legal.tolist()
            own = (
                state.information_state_tensor
                if played.information_state
                else (state.observation_tensor)
            )
            np.testing.assert_array_equal(turn.observation["state"][t], np.float32(own(seat)))
            assert len(legal) > 1
        np.testing.assert_array_equal(turn.moves, turn.legal)


@pytest.mark.parametrize("name", ["kuhn_poker", "leduc_poker", "liars_dice", "tic_tac_toe"])
def test_payoffs_are_what_openspiel_says(name):
    tables = game(name).tables(5, 5, skip_forced=False)
    random = np.random.default_rng(0)
    turn, ended = tables.turn(), 0
    while ended < 50:
        choice = random.integers(np.diff(turn.offsets))
        after = [
            stage.state.child(int(turn.legal[turn.offsets[t] + choice[t]]))
            for t, stage in enumerate(tables._stages)
        ]
        turn = tables.play(choice)
        over = [t for t, state in enumerate(after) if state.is_terminal()]
        assert turn.finished.tolist() == over
        assert turn.payoff.tolist() == [after[t].returns() for t in over]
        assert turn.reward is None
        ended += len(over)


def test_rewards_before_the_end_and_payoffs_add_up_to_the_score():
    tables = game("hanabi").tables(4, 0)
    got, scores = np.zeros((4, 2)), []
    for turn, _ in turns(tables, 300):
        assert turn.reward.shape == (4, 2)
        got += turn.reward
        got[turn.finished] += turn.payoff
        scores += got[turn.finished].tolist()
        got[turn.finished] = 0.0
    assert len(scores) > 10
    # Hanabi pays a card when it is played and takes all back when the last life is lost.
    assert all(mine == other and 0 <= mine <= 25 for mine, other in scores)


def test_every_game_of_gin_rummy_and_hearts_comes_to_its_end():
    for name in ("gin_rummy", "hearts"):
        tables = game(name).tables(8, 1)
        ended = sum(len(turn.finished) for turn, _ in turns(tables, 400))
        assert ended >= 8


def test_the_other_seats_card_is_never_seen():
    """Kuhn poker has six states of knowledge for each seat; seeing both cards, it would have more."""
    tables = game("kuhn_poker").tables(64, 0)
    seen = {
        (int(seat), row.tobytes())
        for turn, _ in turns(tables, 100)
        for seat, row in zip(turn.seat, turn.observation["state"], strict=True)
    }
    assert [sum(seat == s for seat, _ in seen) for s in (0, 1)] == [6, 6]


def test_leduc_poker_shows_its_936_information_states_and_no_more():
    tables = game("leduc_poker").tables(256, 0)
    seen = set()
    for turn, _ in turns(tables, 300):
        seen.update(row.tobytes() for row in turn.observation["state"])
    assert 900 < len(seen) <= 936


def history(tables, count, seed=0):
    return [
        (turn.seat.tolist(), turn.legal.tolist(), turn.observation["state"].tobytes(),
         turn.group.tolist(), turn.payoff.tolist())
        for turn, _ in turns(tables, count, seed)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["leduc_poker", "liars_dice", "hanabi"])
def test_chance_follows_from_the_seed(name):
    played = game(name)
    once = history(played.tables(4, 9), 60)
    assert history(played.tables(4, 9), 60) == once
    assert history(played.tables(4, 10), 60) != once


def test_a_deal_does_not_depend_on_the_number_of_tables():
    played = game("leduc_poker", parameters={"suit_isomorphism": False})
    few, many = played.tables(2, 3), played.tables(6, 3)
    first = {int(g): row.tobytes() for g, row in zip(*seen_first(many), strict=True)}
    for group, row in zip(*seen_first(few), strict=True):
        assert first[int(group)] == row.tobytes()


def seen_first(tables):
    turn = tables.turn()
    return turn.group.copy(), turn.observation["state"].copy()


@pytest.mark.parametrize("name", ["leduc_poker", "liars_dice"])
def test_whether_stages_are_kept_makes_no_difference(name, monkeypatch):
    kept = game(name).tables(4, 9)
    once = history(kept, 200)
    assert kept._dynamics.kept
    monkeypatch.setattr(stages, "MOST_STAGES", 30)
    forgetful = game(name).tables(4, 9)
    assert history(forgetful, 200) == once
    assert not forgetful._dynamics.kept


def test_the_odds_of_chance_are_those_of_the_game():
    """Pig's die: 1 to 6, each as likely; and a lopsided one."""
    stage = stages.Stage()
    stage.legal, stage.odds = [4, 7, 9], [0.5, 0.125, 0.375]
    random = np.random.default_rng(1)
    drawn = [stages.drawn(stage, random.random) for _ in range(4000)]
    shares = [drawn.count(outcome) / 4000 for outcome in (4, 7, 9)]
    np.testing.assert_allclose(shares, stage.odds, atol=0.03)
    assert stages.drawn(stage, lambda: 1 - 1e-16) == 9


def test_single_moves_are_made_without_asking():
    asked = game("liars_dice").tables(8, 0, skip_forced=False)
    alone = sum(int((np.diff(turn.offsets) == 1).sum()) for turn, _ in turns(asked, 300))
    assert alone
    assert asked.forced == 0
    skipping = game("liars_dice").tables(8, 0)
    for turn, _ in turns(skipping, 300):
        assert (np.diff(turn.offsets) > 1).all()
    assert skipping.forced
    assert skipping.decisions - skipping.forced == 8 * 300


def test_long_games_are_truncated_for_every_seat():
    played = game("tic_tac_toe", max_moves=4)
    tables = played.tables(3, 0)
    ended = 0
    for turn, _ in turns(tables, 40):
        ended += len(turn.finished)
        assert turn.truncated.shape == (len(turn.finished), 2)
        assert turn.truncated.all()  # nobody has three of four moves in a row
        assert not turn.payoff.any()
        final = turn.final["state"]
        assert final.shape == (len(turn.finished), 2, 27)
        # Nine empty places less four moves, as both seats see them.
        assert (final.reshape(-1, 2, 3, 9)[:, :, 0].sum(-1) == 5).all()
        assert turn.final["action_mask"].shape == (len(turn.finished), 2, 2)
        assert turn.final["action_mask"].all()
    assert ended == 3 * 9  # the first of 40 turns is the beginning, and 39 hold nine games of four


def test_games_that_end_in_time_are_not_truncated():
    tables = game("tic_tac_toe", max_moves=9).tables(3, 0)
    for turn, _ in turns(tables, 40):
        assert not turn.truncated.any()


def test_two_plays_of_one_deal_meet_the_same_chance():
    played = game("leduc_poker")
    hands = deals.generate(played, 8, 3).hands
    tables = deals.tables(played, 16)
    turn = tables.deal(np.concatenate([hands, hands]))
    while not tables.done.all():
        state = turn.observation["state"]
        np.testing.assert_array_equal(state[:8], state[8:])
        np.testing.assert_array_equal(turn.offsets[8:] - turn.offsets[8], turn.offsets[:9])
        turn = tables.play(np.zeros(16, np.int64))
    assert not len(turn.legal)


@pytest.mark.parametrize("name", ["leduc_poker", "liars_dice"])
def test_agents_can_be_judged_against_each_other(name):
    played = game(name)
    result = arena.judge(
        played, deals.generate(played, 30, 0),
        random_agent.create(played), random_agent.create(played),
    )  # fmt: skip
    assert result.deals == 30
    assert 0.2 < result.overall.wp.mean < 0.8


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"game": "leduc"}, "OpenSpiel has no 'leduc'; did you mean 'leduc_poker'"),
        ({"game": "goofspiel"}, r"in turn it is called 'turn_based_simultaneous_game\(game=goofsp"),
        ({"game": "mfg_crowd_modelling"}, "is a mean-field game"),
        ({"game": "stones_and_gems"}, "no deal could be repeated"),
        ({"game": "cribbage"}, "shows nothing that a network could read"),
        ({"game": "chess", "observation": "information_state"}, "no information_state tensor"),
        ({"game": "leduc_poker", "parameters": {"plyers": 3}}, "did you mean 'players'"),
        ({"game": "leduc_poker", "parameters": {"players": "3"}}, "not of the type of its default"),
        ({"game": "leduc_poker", "parameters": {"players": 33}}, "max_num_players = 10"),
        ({"game": "leduc_poker(players=3)", "parameters": {"players": 3}}, "in its name already"),
        ({"game": "misere", "parameters": {"game": "hex"}}, r"in the name: misere\(game=hex\)"),
        ({"gaem": "leduc_poker"}, "unknown key; did you mean 'game'"),
    ],
)
def test_what_cannot_be_played_is_refused_in_words(rules, said):
    with pytest.raises(UserError, match=said):
        games.load("openspiel", rules)


def test_parameters_reach_the_game():
    assert len(game("leduc_poker", parameters={"players": 3}).seats) == 3
    assert len(game("leduc_poker(players=3)").seats) == 3
    assert game("turn_based_simultaneous_game(game=goofspiel(num_cards=4))").actions == 4


def test_a_report_says_how_a_game_looks():
    said = openspiel.report({"game": "kuhn_poker"})
    assert said.startswith("openspiel kuhn_poker: sound: seats player_0 player_1 see state float32")
    assert "a game" in said
    with pytest.raises(UserError, match="OpenSpiel has no 'nothing'"):
        openspiel.report({"game": "nothing"})


def test_moves_have_names():
    assert game("leduc_poker").describe(1) == "Call"
