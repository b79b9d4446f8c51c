"""Self-play: what was decided reaches the blocks, whole, once and under the right name."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces as gym

import troupe_actors.recorder
import troupe_actors.selfplay
import troupe_actors.sources
import troupe_actors.worker
from troupe.codec import decode, encode
from troupe.config import parse
from troupe.episodes import Ending
from troupe.jobs.spec import Job
from troupe.metrics import Metrics
from troupe.policies import Choices, Spaces, create
from troupe.store.replay import Outcome, Push
from troupe.weights.errors import MissingError
from troupe_actors import games
from troupe_actors.games import WAIT, Turn
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Exploration, Player, run_loop
from troupe_actors.sources import make_players
from troupe_actors.worker import Session

AUTHOR = Author("actor-3", 2, 1)
BYTES = (2, 3)
"""Of an observation, by seat of the toy game."""


class ToyTables:
    """Two seats in turn; the deal says how long a game lasts, every row says where it is from."""

    def __init__(self, count, longest=6):
        self.count, self.longest = count, longest
        self.group = np.arange(count)
        self.step = np.zeros(count, np.int64)
        self.decisions = self.forced = 0

    def length(self, group):
        return 1 + group % self.longest

    def turn(self, finished=(), payoff=()):
        counts = 1 + (self.group + self.step) % 3
        offsets = np.concatenate([[0], np.cumsum(counts)])
        moves = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        seat = (self.step % 2).astype(np.uint8)
        rows = np.stack([self.group % 256, self.step, np.where(seat, 7, 0)], 1).astype(np.uint8)
        return Turn(
            seat=seat,
            offsets=offsets,
            moves=moves,
            legal=(np.repeat(self.step, counts) + 100 * moves).astype(np.uint8)[:, None],
            observation={"state": rows},
            group=self.group.copy(),
            finished=np.array(finished, np.int64),
            payoff=np.array(payoff, np.float32).reshape(-1, 2),
        )

    def play(self, choice):
        moving = choice != WAIT
        assert (choice >= WAIT).all()
        assert (choice < 1 + (self.group + self.step) % 3).all()
        self.decisions += moving.sum()
        self.step += moving
        over = np.flatnonzero(self.step == self.length(self.group))
        payoff = [(group + 0.5, -group - 0.5) for group in self.group[over]]
        self.group[over] += self.count
        self.step[over] = 0
        return self.turn(over, payoff)


class LastMove:
    """Takes the last legal action and gives its count as the log-probability."""

    def act(self, decisions, random, exploration=0.0):
        counts = np.diff(decisions.offsets)
        action = decisions.legal[decisions.offsets[1:] - 1]
        return Choices(action, -counts.astype(np.float32), counts - 1)

    def initial(self, count):
        return {}


def toy_spaces(seat):
    return Spaces({"state": gym.MultiBinary(8 * BYTES[seat] - 3)}, gym.MultiBinary(5))


def toy_players():
    return [Player(f"p{seat}", (seat,), toy_spaces(seat), LastMove()) for seat in range(2)]


def play(tables, players, rounds, block_steps=50, between=lambda number: None):
    loop = run_loop(
        tables,
        players,
        np.random.default_rng(1),
        exploration=Exploration(0.1),
        block_steps=block_steps,
        author=AUTHOR,
    )
    blocks = []
    for number in range(rounds):
        blocks += next(loop).blocks
        between(number)
    return blocks


def fragments(block):
    ends = np.cumsum(block.length)
    return [
        (int(block.group[i]), int(block.seat[i]), slice(ends[i] - block.length[i], ends[i]))
        for i in range(block.fragments)
    ]


@pytest.mark.parametrize("longest", [6, 90])
def test_every_decision_of_an_ended_game_is_in_one_fragment(longest):
    tables = ToyTables(5, longest)
    blocks = play(tables, toy_players(), 400)
    seen = set()
    for block in blocks:
        seat = int(block.policy[1])
        assert (block.actor, block.incarnation, block.attempt) == ("actor-3", 2, 1)
        assert block.observation["state"].shape == (block.steps, BYTES[seat])
        for group, owner, steps in fragments(block):
            assert owner == seat
            assert (group, seat) not in seen
            seen.add((group, seat))
            made = np.arange(seat, tables.length(group), 2)
            state = block.observation["state"][steps]
            np.testing.assert_array_equal(state[:, 0], np.full(len(made), group % 256))
            np.testing.assert_array_equal(state[:, 1], made)
            counts = 1 + (group + made) % 3
            np.testing.assert_array_equal(
                block.action["action"][steps, 0], (made + 100 * (counts - 1)) % 256
            )
            np.testing.assert_array_equal(block.log_prob[steps], -counts)
            reward = np.zeros(len(made))
            reward[-1] = (group + 0.5) * (1, -1)[seat]
            np.testing.assert_array_equal(block.reward[steps], reward)
        assert (block.ending == Ending.TERMINATED).all()
    ended = {table + 5 * k for table in range(5) for k in range(tables.group[table] // 5)}
    for seat in range(2):
        steps = {group: len(range(seat, tables.length(group), 2)) for group in ended}
        sent = {group for group, owner in seen if owner == seat}
        assert sent <= {group for group in ended if steps[group]}
        assert sum(steps[group] for group in ended - sent) < 50, "these wait for a full block"


def test_first_block_is_sent_at_once_and_later_ones_full():
    for policy in ("p0", "p1"):
        blocks = [b for b in play(ToyTables(5), toy_players(), 200) if b.policy == policy]
        assert blocks[0].steps < 50
        assert all(50 <= block.steps <= 70 for block in blocks[1:])
        assert len(blocks) > 5


def test_blocks_survive_the_codec():
    block = play(ToyTables(5), toy_players(), 60)[-1]
    again = decode(encode(block))
    np.testing.assert_array_equal(again.observation["state"], block.observation["state"])
    np.testing.assert_array_equal(again.reward, block.reward)


def test_one_policy_may_play_both_seats():
    players = [Player("both", (0, 1), toy_spaces(1), LastMove())]
    tables = ToyTables(5)
    by_group = {}
    for block in play(tables, players, 100):
        for group, seat, steps in fragments(block):
            by_group.setdefault(group, {})[seat] = block.reward[steps].sum()
            assert (block.observation["state"][steps, 2] == (7 if seat else 0)).all()
    assert len(by_group) > 20
    for group, payoffs in by_group.items():
        expected = {0: group + 0.5, 1: -group - 0.5}
        assert payoffs == {s: expected[s] for s in range(min(2, tables.length(group)))}


def test_each_step_bears_the_version_that_chose_it():
    players = toy_players()

    def swap(number):
        for player in players:
            player.version = number + 1

    starts = [0]
    for group in range(20):
        starts.append(starts[-1] + 1 + group % 4)
    for block in play(ToyTables(1, longest=4), players, 40, block_steps=1, between=swap):
        for group, seat, steps in fragments(block):
            expected = np.arange(starts[group] + seat, starts[group + 1], 2)
            np.testing.assert_array_equal(block.version[steps], expected)


def test_players_move_in_turn_each_on_all_tables_that_wait_for_it():
    moves = []

    class Watched(LastMove):
        def __init__(self, seat):
            self.seat = seat

        def act(self, decisions, random, exploration=0.0):
            assert (decisions.observation["state"][:, 2:] == (7 if self.seat else 0)).all()
            moves.append((self.seat, len(decisions.offsets) - 1))
            return super().act(decisions, random, exploration)

    players = [Player(f"p{s}", (s,), toy_spaces(1), Watched(s)) for s in range(2)]
    play(ToyTables(64), players, 200)
    assert [seat for seat, _ in moves] == [0, 1] * 100
    # A game of an odd number of moves ends with seat 0, which is then to move again: it waits.
    assert np.mean([count for _, count in moves]) > 40


def test_no_seat_is_named_in_the_loop():
    game = games.load("doudizhu", {})
    for module in (
        troupe_actors.selfplay,
        troupe_actors.recorder,
        troupe_actors.sources,
        troupe_actors.worker,
    ):
        text = Path(module.__file__).read_text().lower()
        assert not [word for word in (game.name, *game.seats, "peasant") if word in text]


# Dou Dizhu with a small network.


def a_job(**changes):
    data = {
        "name": "small",
        "game": {"name": "doudizhu"},
        "algorithm": {"name": "deep_monte_carlo"},
        "network": {"hidden": 16, "layers": 2, "recurrent": 8},
        "actors": {
            "tables": 8,
            "block_steps": 100,
            "precision": "fp32",
            "exploration": 0.2,
            "exploration_decay": 0,
        },
        **changes,
    }
    return parse(Job, data)


def doudizhu_blocks(seed):
    torch.manual_seed(5)
    game, job = games.load("doudizhu", {}), a_job()
    return play(game.tables(8, seed), make_players(job, game), 300, block_steps=100)


def test_doudizhu_games_have_one_result_for_all_seats():
    game, results = games.load("doudizhu", {}), {}
    for block in doudizhu_blocks(1):
        seat = game.seats.index(block.policy)
        bits = game.spaces(seat).observation["state"].n
        assert block.observation["state"].shape[1] == -(-bits // 8)
        assert (block.log_prob <= 0).all()
        for group, owner, steps in fragments(block):
            assert owner == seat
            results.setdefault(group, {})[seat] = float(block.reward[steps][-1])
            assert not block.reward[steps][:-1].any()
    whole = [result for result in results.values() if len(result) == 3]
    assert len(whole) > 10
    for result in whole:
        assert result[1] == result[2] == -result[0] != 0


def test_same_seed_same_blocks():
    first, second, other = (b"".join(map(encode, doudizhu_blocks(s))) for s in (1, 1, 2))
    assert first == second
    assert first != other


# The worker, with stand-ins for store and weight server.


class FakeWeights:
    """Publishes a new version of every policy each few looks."""

    def __init__(self, players):
        self.tensors = {
            p.policy: {
                k: v.numpy() for k, v in create(p.spaces, a_job().network).state_dict().items()
            }
            for p in players
        }
        self.looks, self.misses = 0, 1

    def wait(self, policy, newer_than, timeout):
        self.looks += 1
        return 4 if self.looks > 2 else None

    def latest(self, policy):
        self.looks += 1
        return 4 + self.looks // 60

    def at_hand(self, policy):
        return None

    def fetch(self, policy, version=None):
        if self.looks > 60 and self.misses:
            self.misses -= 1
            raise MissingError("weights: replaced")
        version = 4 + self.looks // 60
        return SimpleNamespace(version=version, tensors=self.tensors[policy])


class FakeReplay:
    """Answers pushes with the outcomes it is given, then tells to stop."""

    def __init__(self, outcomes, stop):
        self.outcomes, self.stop, self.blocks = list(outcomes), stop, []

    def push_many(self, blocks, stop):
        self.blocks += blocks
        if not self.outcomes:
            self.stop.set()
            return [Push(Outcome.STOPPED, 0.0) for _ in blocks]
        return [Push(self.outcomes.pop(0) if self.outcomes else Outcome.STOPPED, 0.5)] * len(blocks)


def run_session(outcomes, stop=None):
    stop = stop or threading.Event()
    job = a_job()
    ends = SimpleNamespace(
        job=job,
        incarnation=2,
        attempt=1,
        metrics=Metrics(),
        reporter=SimpleNamespace(stop=stop),
        weights=FakeWeights(make_players(job, games.load("doudizhu", {}))),
        replay=FakeReplay(outcomes, stop),
    )
    setting = SimpleNamespace(name="actor-3", role="actor", slot=3)
    Session(setting, ends).run()
    return ends.metrics.snapshot(), ends.replay.blocks


def test_worker_counts_what_it_does_and_takes_new_weights():
    counted, blocks = run_session([Outcome.PUSHED] * 4 + [Outcome.STALE] + [Outcome.PUSHED] * 6)
    assert counted["blocks"] >= 8
    assert counted["stale_blocks"] >= 1
    assert counted["steps"] <= sum(block.steps for block in blocks)
    assert counted["decisions"] > counted["steps"] > 0
    assert counted["forced"] > 0
    assert counted["episodes"] > 3
    assert counted["blocked_seconds"] > 0
    assert counted["weight_misses"] == 1
    assert counted["weight_updates"] > 6
    assert counted["version/landlord"] > 4
    assert counted.get("waiting_for") == ""
    assert {block.policy for block in blocks} == set(games.load("doudizhu", {}).seats)
    assert {(block.actor, block.incarnation, block.attempt) for block in blocks} == {
        ("actor-3", 2, 1)
    }
    assert min(block.oldest for block in blocks) == 4


def test_a_fenced_worker_ends():
    counted, _ = run_session([Outcome.FENCED])
    assert "blocks" not in counted


def test_a_worker_told_to_stop_before_there_are_weights_ends():
    stop = threading.Event()
    stop.set()
    counted, blocks = run_session([], stop)
    assert not blocks
    assert "version 0 of" in counted["waiting_for"]


def test_exploration_falls_linearly_over_the_first_updates():
    exploration = Exploration(0.1, start=0.9, decay=4)
    assert [exploration(version) for version in range(6)] == pytest.approx(
        [0.9, 0.7, 0.5, 0.3, 0.1, 0.1]
    )
    assert Exploration(0.1)(0) == 0.1
