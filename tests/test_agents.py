import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from troupe.errors import UserError
from troupe.jobs.spec import GameSettings, Job
from troupe_actors import agents, arena, deals, games
from troupe_actors.agents import _doudizhu_view, doudizhu_rule, rlcard_rule
from troupe_actors.agents.doudizhu_rule import RuleAgent, Taste
from troupe_actors.games.doudizhu.names import describe, letters, parse_move

GAME = games.load("doudizhu", {})
RANDOM = np.random.default_rng(0)


def test_rows_of_some_tables_are_cut_out_and_counted_anew() -> None:
    offsets = np.array([0, 2, 2, 5, 9])
    rows, own = games.rows_of(offsets, np.array([3, 0, 1]))
    assert rows.tolist() == [5, 6, 7, 8, 0, 1]
    assert own.tolist() == [0, 4, 6, 6]


def job_of(game: str) -> Job:
    return Job(name="small", game=GameSettings(name=game), algorithm={"name": "any"})


def test_random_agent_draws_every_legal_move_and_no_other() -> None:
    agent = agents.load("random", GAME)
    position = agents.select(GAME.tables(1, 5).turn(), np.arange(1))
    count = int(position.offsets[-1])
    drawn = {int(agent.act(position, RANDOM)[0]) for _ in range(40 * count)}
    assert drawn == set(range(count))


@pytest.mark.parametrize(
    ("name", "game", "text"),
    [
        ("rul", "doudizhu", "did you mean 'rule'|did you mean 'random'|there are"),
        ("rlcard-rule", "leduc", "plays doudizhu, not leduc"),
        ("runs/nowhere", "doudizhu", "no 'runs/nowhere'"),
    ],
)
def test_an_agent_that_is_not_there_is_one_line(name: str, game: str, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        agents.check(name, job_of(game), "evaluation.against")
    assert str(caught.value).startswith("evaluation.against")
    assert "\n" not in str(caught.value)


def test_a_missing_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'troupe\[rlcard\]'"):
        agents.check("rlcard-rule", job_of("doudizhu"), "--against")


def test_the_view_of_a_table_is_read_back_from_the_observation() -> None:
    tables = GAME.tables(40, 3, skip_forced=False)
    turn = tables.turn()
    for _ in range(120):
        view = _doudizhu_view.read(agents.select(turn, np.arange(40)))
        for t in range(40):
            truth = tables.view(t, int(turn.seat[t]))
            assert view.hand[t] == truth.hand
            assert view.others[t] == truth.unseen
            assert view.to_beat[t] == truth.to_beat
            assert view.leader[t] == truth.to_beat_by
            assert tuple(view.left[t]) == truth.left
        turn = tables.play(RANDOM.integers(np.diff(turn.offsets)))


def test_the_rule_goes_out_when_it_can() -> None:
    tables = GAME.tables(64, 9)
    turn = tables.turn()
    seen = 0
    for _ in range(200):
        position = agents.select(turn, np.arange(64))
        view = _doudizhu_view.read(position)
        choice = RuleAgent().act(position, RANDOM)
        for t in range(64):
            legal = position.moves[position.offsets[t] : position.offsets[t + 1]]
            if view.hand[t] in legal:
                seen += 1
                assert legal[choice[t]] == view.hand[t]
        turn = tables.play(RANDOM.integers(np.diff(turn.offsets)))
    assert seen > 20


def test_the_rule_cuts_hands_as_well_as_a_plain_search() -> None:
    random = np.random.default_rng(1)
    stands = np.sort(random.random((5, 15)), axis=1)
    for _ in range(60):
        counts = np.minimum(random.integers(0, 3, 15), [4] * 13 + [1, 1])
        counts[13:] = counts[13:] > 0
        found = doudizhu_rule._cut(counts.astype(np.int64), stands, Taste())
        assert found == pytest.approx(_plain_cut(counts.astype(np.int64), stands))


def _plain_cut(counts: NDArray[np.int64], stands: NDArray[np.float64]) -> float:
    """Take any chain out, in any order, and see what that costs."""
    best = doudizhu_rule._loose(counts, stands, Taste())
    for need, least in ((1, 5), (2, 3)):
        for low, high in itertools.combinations(range(13), 2):
            if high - low >= least and (counts[low:high] >= need).all():
                rest = counts.copy()
                rest[low:high] -= need
                best = min(best, 1.0 - stands[2 + need, low] + _plain_cut(rest, stands))
    return best


@pytest.mark.parametrize(
    ("cards", "whole"),
    [("34567", True), ("3456", False), ("3334", True), ("333444", True), ("33344456", True),
     ("333444567", False), ("3344", False), ("334455", True), ("BR", True), ("22", True),
     ("333355", True), ("3333556", False), ("3336", True), ("333566", False)],
)  # fmt: skip
def test_the_rule_knows_what_can_be_played_at_once(cards: str, whole: bool) -> None:
    assert doudizhu_rule._is_one_move(parse_move(cards)) == whole


def test_the_rule_beats_random() -> None:
    dealt = deals.generate(GAME, 200, 1)
    result = arena.judge(GAME, dealt, RuleAgent(), agents.load("random", GAME))
    assert result is not None
    assert result.overall.wp.mean > 0.9


class _Stub:
    """Stands in for RLCard's rule."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def step(self, state: Mapping[str, object]) -> object:
        return self._answer


@pytest.mark.parametrize("answer", [None, "2222", "no cards", "pass"])
def test_rlcards_illegal_answers_end_the_match(answer: object) -> None:
    pytest.importorskip("rlcard")
    agent = rlcard_rule.create(GAME)
    agent._rule = _Stub(answer)
    position = agents.select(GAME.tables(1, 5).turn(), np.arange(1))
    with pytest.raises(rlcard_rule.AgentError, match="not legal here"):
        agent.act(position, RANDOM)


def test_rlcards_rule_answers_here_as_it_does_at_its_own_table() -> None:
    """Two games of RLCard's engine, each position shown to its rule and to our adapter."""
    pytest.importorskip("rlcard")
    from rlcard.games.doudizhu import Game as TheirGame
    from rlcard.games.doudizhu.utils import cards2str

    agent = rlcard_rule.create(GAME)
    theirs, _, _ = rlcard_rule._load()
    compared = 0
    for seed in range(2):
        game = TheirGame()
        game.np_random = np.random.RandomState(seed)
        state, player = game.init_game()
        hands = [parse_move(cards2str(p.current_hand)) for p in game.players]
        tables = GAME.tables(1, 0, skip_forced=False)
        turn = tables.deal(np.array([hands], np.uint64))
        while not game.is_over():
            position = agents.select(turn, np.arange(1))
            assert player == turn.seat[0]
            answer = theirs.step({"raw_obs": state})
            choice = agent.act(position, RANDOM)
            if type(answer) is not np.str_:
                assert letters(int(position.moves[choice[0]])) == str(answer).replace("pass", "")
                compared += 1
            follow = position.moves.tolist().index(parse_move(str(answer)))
            turn = tables.play(np.array([follow]))
            state, player = game.step(str(answer))
    assert compared > 50


def test_rlcards_dice_are_ours_and_counted() -> None:
    pytest.importorskip("rlcard")
    dealt = deals.generate(GAME, 60, 2)
    agent, opponent = rlcard_rule.create(GAME), RuleAgent()
    first = arena.judge(GAME, dealt, agent, opponent, seed=1)
    np.random.seed(0)  # the global stream does not matter
    again = arena.judge(GAME, dealt, agent, opponent, seed=1)
    assert first is not None
    assert again is not None
    assert first.overall == again.overall
    assert first.remarks == again.remarks
    assert first.remarks["rlcard-rule: decisions by its own dice"] > 0


def test_moves_that_rlcard_does_not_know_are_replaced_and_counted() -> None:
    pytest.importorskip("rlcard")
    game = games.load("doudizhu", {"both_jokers_kicker": True})
    hands = ["333444BR5566778899JQ", "TTTKKKK22AAJJJQQQ", "345566778899TAA22"]
    tables = game.tables(1, 0, skip_forced=False)
    turn = tables.deal(np.array([[parse_move(hand) for hand in hands]], np.uint64))
    lead = [describe(int(move)) for move in turn.moves].index("333444+BR")
    turn = tables.play(np.array([lead]))
    agent = rlcard_rule.create(game)
    choice = agent.act(agents.select(turn, np.arange(1)), RANDOM)
    assert 0 <= choice[0] < turn.offsets[1]
    assert any("replaced" in what for what in agent.remarks())
