"""PettingZoo's environments as tables: rewards, endings and spaces by seat, and what goes wrong."""

import numpy as np
import pettingzoo as pettingzoo_package
import pytest
from gymnasium import spaces

from troupe.config import parse
from troupe.episodes import Ending
from troupe.errors import UserError
from troupe.policies import Choices
from troupe_actors import arena, deals, games
from troupe_actors.agents import random as random_agent
from troupe_actors.environments import EnvironmentFaultError, Patience
from troupe_actors.games import cut, pettingzoo
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Player, run_loop

HERE = "agents_in_turn"


def game(name, patience=None, wait=lambda seconds: None, max_moves=None, **options):
    path = name if {*".:/"} & {*name} else f"{HERE}:{name}"
    data = {"environment": path, "options": options, "max_moves": max_moves}
    return pettingzoo.Game(parse(pettingzoo.Rules, data), patience, wait)


def classic(name):
    pytest.importorskip("pygame")
    return game(f"pettingzoo.classic.{name}")


def turns(tables, count, seed=0):
    """Positions of random play."""
    random = np.random.default_rng(seed)
    turn = tables.turn()
    for _ in range(count):
        yield turn
        turn = tables.play(random.integers(np.diff(turn.offsets)))


@pytest.mark.parametrize("name", ["connect_four_v3", "tictactoe_v3", "leduc_holdem_v4"])
def test_classic_games_are_played_by_their_masks(name):
    played = classic(name)
    tables = played.tables(3, 1)
    actions = int(played.spaces(0).action.n)
    assert played.spaces(0).observation["action_mask"] == spaces.MultiBinary(actions)
    total = np.zeros(2)
    ended = 0
    for turn in turns(tables, 150):
        mask = np.unpackbits(
            turn.observation["action_mask"], axis=1, count=actions, bitorder="little"
        )
        for t in range(3):
            legal = turn.legal[turn.offsets[t] : turn.offsets[t + 1]]
            assert np.flatnonzero(mask[t]).tolist() == legal.tolist()
        total += turn.payoff.sum(0) + turn.reward.sum(0)
        assert not turn.truncated.any()
        ended += len(turn.finished)
    assert ended > 10
    assert total.sum() == pytest.approx(0.0)


def test_boards_travel_as_bits_from_the_movers_side():
    played = classic("tictactoe_v3")
    assert played.spaces(0).observation["observation"] == spaces.MultiBinary((3, 3, 2))
    tables = played.tables(1, 0)
    tables.play(np.array([4]))  # the first player takes the centre
    packed = tables.turn().observation["observation"]
    board = np.unpackbits(packed, axis=1, count=18, bitorder="little").reshape(3, 3, 2)
    assert board[1, 1].tolist() == [0, 1]
    assert board.sum() == 1


def test_rewards_between_moves_and_at_the_end_are_each_seats_own():
    """Ann, Bob and Cy each add 2 and 2: every one pays 2, gets 10, and pays 1 for each before it."""
    tables = game("Race").tables(1, 7)
    start = int(tables.turn().seat[0])
    total, rounds = np.zeros(3), []
    turn = tables.turn()
    while not len(turn.finished):
        rounds.append(int(turn.seat[0]))
        turn = tables.play(np.array([2]))
        total += turn.reward[0]
    total += turn.payoff[0]
    order = [(start + i) % 3 for i in range(3)]
    assert rounds == order + order
    assert total[order].tolist() == [8.0, 7.0, 6.0]
    assert not turn.truncated.any()
    assert not turn.reward.any()


def test_seats_that_left_are_not_truncated_with_the_others():
    tables = game("Race", limit=5).tables(1, 7)
    turn = tables.turn()
    start = int(turn.seat[0])
    for _ in range(5):
        turn = tables.play(np.array([2 if turn.seat[0] == start else 0]))
    assert turn.finished.tolist() == [0]
    assert turn.truncated.tolist() == [[seat != start for seat in range(3)]]
    final = turn.final["observation"][0]
    assert final[:, 1].tolist() == [0, 1, 2]
    for seat in range(3):
        if seat != start:  # what it sees after the fifth move
            assert final[seat, 0] == 5
            assert turn.final["action_mask"][0, seat].tolist() == [0b111]


def test_rows_are_as_wide_as_the_widest_seats_and_cut_to_a_seats_own():
    played = game("Race")
    assert played.seats == ("ann", "bob", "cy")
    turn = played.tables(4, 1).turn()
    assert turn.observation["observation"].shape == (4, 5)
    for seat in range(3):
        space = played.spaces(seat).observation["observation"]
        assert space.shape == (3 + seat,)
        assert cut(turn.observation["observation"], space).shape == (4, 3 + seat)


def test_a_mask_may_be_in_the_info():
    played = game("noted")
    assert set(played.spaces(0).observation) == {"observation", "action_mask"}
    one, other = game("Race").tables(2, 3), played.tables(2, 3)
    for mine, theirs in zip(turns(one, 40), turns(other, 40), strict=True):
        assert mine.legal.tolist() == theirs.legal.tolist()
        np.testing.assert_array_equal(
            mine.observation["action_mask"], theirs.observation["action_mask"]
        )


def test_single_moves_are_made_without_asking():
    tables = game("forced").tables(2, 0)
    for turn in turns(tables, 30):
        assert (np.diff(turn.offsets) > 1).all()
    assert tables.forced > 30
    asked = game("forced").tables(2, 0, skip_forced=False)
    assert any((np.diff(turn.offsets) == 1).any() for turn in turns(asked, 30))
    assert asked.forced == 0


def test_seeds_lead_to_the_same_games():
    def starts(seed, count):
        tables = game("Race").tables(count, seed)
        found = {}
        for turn in turns(tables, 60):
            for group, row in zip(turn.group, turn.observation["observation"], strict=True):
                found.setdefault(int(group), row.tobytes())
        return found

    few, many = starts(5, 2), starts(5, 6)
    assert len(few) > 5
    assert all(many[group] == few[group] for group in few.keys() & many.keys())
    assert starts(6, 2) != few


def test_games_without_end_are_truncated():
    tables = game("Race", max_moves=4, goal=9).tables(2, 0)
    ended = 0
    for turn in turns(tables, 41):
        ended += len(turn.finished)
        assert turn.truncated.all()
        assert turn.truncated.shape == (len(turn.finished), 3)
        assert (turn.final["observation"][:, :, 0] == 4).all()
    assert ended == 20


def test_actions_that_cannot_be_listed_are_taken_as_they_are():
    played = game("Sway")
    assert played.spaces(0).action == spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert played.spaces(1).action == spaces.MultiDiscrete([3, 2])
    tables = played.tables(2, 0)
    turn = tables.turn()
    assert turn.legal.shape == (0,)
    before = turn.observation["observation"].copy()
    with pytest.raises(ValueError, match="on table 0 no moves are listed"):
        tables.play(np.zeros(2, np.int64))
    none = np.zeros(2, np.int64)
    turn = tables.act(none, np.array([[0.5, 7.0], [0.0, -7.0]], np.float32))
    assert turn.seat.tolist() == [1, 1]
    turn = tables.act(none, np.array([[2, 1], [0, 0]]))
    moved = turn.observation["observation"] - before
    np.testing.assert_allclose(moved[0], [0.5 - 3, 1.0 - 1, 1], atol=1e-6)
    np.testing.assert_allclose(moved[1], [0.0 - 1, -1.0 - 0, 1], atol=1e-6)
    assert turn.reward.tolist() == [[1, 1], [1, 1]]
    with pytest.raises(EnvironmentFaultError, match=r"seat left_0: action .* is not finite"):
        tables.act(none, np.full((2, 2), np.nan, np.float32))


def test_parallel_environments_end_for_all_at_once():
    tables = game("Sway").tables(1, 0)
    turn = tables.turn()
    none, total = np.zeros(1, np.int64), np.zeros(2)
    for _ in range(10):
        turn = tables.act(none, np.zeros((1, 2), np.float32 if turn.seat[0] == 0 else np.int64))
        total += turn.reward[0]
    assert turn.finished.tolist() == [0]
    assert turn.truncated.tolist() == [[True, True]]
    assert (total + turn.payoff[0]).tolist() == [15, 15]
    assert (turn.final["observation"][0, :, 2] == 5).all()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("nan", r"observation is not finite: \[nan, "),
        ("mask", "action_mask is all zeros: nothing is legal"),
        ("shape", r"observation is an array float32 \(1,\); its space says an array float32"),
        ("mask shape", r"observation 'action_mask' is an array int8 \(2,\); its space says"),
        ("reward", r"reward is '1\.0' \(str\), not a number, for"),
        ("infinite", "reward is not finite in float32: inf, for"),
        ("flag", "terminated is 1 \\(int\\), not a bool, for"),
    ],
)
def test_what_an_environment_breaks_is_said_with_seat_and_step(broken, said):
    with pytest.raises(EnvironmentFaultError, match=said) as caught:
        for _ in turns(game("Race", broken=broken).tables(2, 0), 20):
            pass
    place = rf"environment '{HERE}:Race', slot \d, step \d of episode \d, seat (Ann|Bob|Cy): "
    assert caught.match(place)


def test_an_environment_that_fails_now_and_then_is_made_anew_and_counted():
    waits = []
    patience = Patience(failures=4, first_wait=0.1)
    fails = game("Race", patience, waits.append, broken="raises")
    tables = fails.tables(1, 0)
    turn = tables.play(np.array([0]))  # sound
    turn = tables.play(np.array([0]))  # fails
    assert turn.finished.tolist() == [0]
    assert turn.truncated.tolist() == [[True] * 3]
    assert turn.payoff.tolist() == [[0.0] * 3]
    assert tables.restarts == 1
    assert turn.group.tolist() == [1]
    assert waits == [0.1]


def test_an_environment_that_always_fails_ends_with_its_own_message():
    fails = game("Race", Patience(failures=3), broken="raises")
    with pytest.raises(
        EnvironmentFaultError, match="RuntimeError: the track is wet, 3 times in a row"
    ):
        for _ in turns(fails.tables(1, 0), 50):
            pass


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nosuch.thing", {}, "there is no such module"),
        ("pettingzoo.classic.tictac", {}, "no 'tictac' in pettingzoo.classic; did you mean 'tictactoe'"),
        ("classic/ches-v6", {}, "no such id; did you mean 'classic/chess-v6'"),
        (f"{HERE}:Race", {"broken": "reset"}, "raised RuntimeError: no board"),
        (f"{HERE}:Rice", {}, "no 'Rice' in .*; did you mean 'Race'"),
        (f"{HERE}:np.pi", {}, "neither a class nor a function"),
        (f"{HERE}:Race", {"gaol": 3}, "unexpected keyword argument 'gaol'"),
        ("builtins:dict", {}, r"made \{\}, neither an AECEnv nor a ParallelEnv"),
        ("json.decoder", {}, r"has neither env\(\) nor parallel_env\(\)"),
    ],
)  # fmt: skip
def test_what_is_no_environment_is_refused_in_words(name, options, said):
    with pytest.raises(UserError, match=said):
        game(name, **options)


class Adding:
    """Adds 2 where that is legal, else 1; Cy never adds."""

    def __init__(self, most):
        self._most = most

    def act(self, decisions, random, exploration=0.0):
        count = len(decisions.offsets) - 1
        choice = np.minimum(np.diff(decisions.offsets) - 1, self._most)
        action = decisions.legal[decisions.offsets[:-1] + choice]
        return Choices(action, np.zeros(count, np.float32), choice)

    def initial(self, count):
        return {}


def test_fragments_hold_what_each_seat_got_and_how_it_ended():
    """Ann and Bob come to 4 in two moves each; Cy adds nothing and is truncated after move 8."""
    played = game("Race", limit=8)
    players = [
        Player(name, (seat,), played.spaces(seat), Adding(0 if name == "cy" else 2))
        for seat, name in enumerate(played.seats)
    ]
    loop = run_loop(
        played.tables(2, 0), players, np.random.default_rng(0), exploration=lambda version: 0.0,
        author=Author("actor-0", 0, 0), block_steps=None, games=3,
    )  # fmt: skip
    blocks = {block.policy: block for made in loop for block in made.blocks}
    for name, width in (("ann", 3), ("bob", 4), ("cy", 5)):
        assert blocks[name].fragments == 6
        assert blocks[name].observation["observation"].shape[1] == width
        assert blocks[name].final["observation"].shape == (6, width)
    for name in ("ann", "bob"):
        block = blocks[name]
        assert (block.length == 2).all()
        assert (block.ending == Ending.TERMINATED).all()
        returns = block.reward.reshape(6, 2).sum(1)
        assert set(returns.tolist()) <= {8.0, 7.0}  # -1 -1 +10, less 1 for who was left behind
    cy = blocks["cy"]
    assert (cy.ending == Ending.TRUNCATED).all()
    assert (cy.length >= 3).all()
    np.testing.assert_array_equal(np.add.reduceat(cy.reward, cy.length.cumsum() - cy.length), -2.0)
    np.testing.assert_array_equal(cy.final["observation"][:, 0], 8)


def test_agents_can_be_judged_against_each_other():
    played = classic("tictactoe_v3")
    dealt = deals.generate(played, 10, 0)
    agent = random_agent.create(played)
    result = arena.judge(played, dealt, agent, agent)
    assert result.deals == 10
    assert 0.2 < result.overall.wp.mean < 0.8


def test_reports_say_how_an_environment_looks_or_what_is_wrong():
    said = pettingzoo.report({"environment": f"{HERE}:Race"})
    assert "sound: seats ann see action_mask MultiBinary(3), float32 (3,) and act in Disc" in said
    assert "though" not in said
    said = pettingzoo.report({"environment": f"{HERE}:Sway"})
    assert "seats right_0 see float32 (3,) and act in MultiDiscrete([3 2])" in said
    assert "games truncated" in said
    rules = {"environment": f"{HERE}:Race", "options": {"broken": "mask"}}
    with pytest.raises(UserError, match="all zeros"):
        pettingzoo.report(rules)


def test_a_report_finds_what_its_seed_does_not_determine():
    with pytest.raises(UserError, match="not determined by its seed"):
        pettingzoo.report({"environment": f"{HERE}:unseeded"})


def test_games_are_found_by_name():
    if hasattr(pettingzoo_package, "make"):
        pytest.importorskip("pygame")
        rules = {"environment": "classic/connect_four-v3"}
        assert games.load("pettingzoo", rules).seats == ("player_0", "player_1")
    assert games.load("pettingzoo", {"environment": f"{HERE}:Race"}).seats == ("ann", "bob", "cy")
