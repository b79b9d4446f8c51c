"""What self-play records of games with rewards on the way, stops from outside, memories and guests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces as gym
from numpy.typing import NDArray

from troupe.episodes import Array, Columns, Ending, Episodes
from troupe.policies import Choices, Decisions, Spaces
from troupe_actors.games import WAIT, Turn
from troupe_actors.recorder import Author
from troupe_actors.selfplay import Player, Round, run_loop

SEATS = 2
SPACES = Spaces({"seen": gym.Box(-1, 999, (3,), np.float32)}, gym.Discrete(4))
AUTHOR = Author("actor-0", 0, 0)


class Race:
    """Seats in turn, 3 + group % 3 moves a game; every move gives its seat its action, the other 0.5.

    Odd groups are stopped from outside. A seat sees (group, moves made, seat).
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.group = np.arange(count)
        self.made = np.zeros(count, np.int64)
        self.decisions = self.forced = 0

    def turn(self) -> Turn:
        return self.shown(np.zeros((self.count, SEATS), np.float32), [])

    def play(self, choice: NDArray[np.int64]) -> Turn:
        seat = self.made % 2
        moving = choice != WAIT
        reward = np.zeros((self.count, SEATS), np.float32)
        reward[moving] = 0.5
        reward[moving, seat[moving]] = choice[moving]
        self.made += moving
        over = np.flatnonzero(self.made == 3 + self.group % 3).tolist()
        ended = [(t, int(self.group[t]), int(self.made[t])) for t in over]
        self.group[over] += self.count
        self.made[over] = 0
        return self.shown(reward, ended)

    def shown(self, reward: Array, ended: list[tuple[int, int, int]]) -> Turn:
        finished = np.array([t for t, _, _ in ended], np.int64)
        payoff = reward[finished]
        going = reward.copy()
        going[finished] = 0
        seat = (self.made % 2).astype(np.uint8)
        final = [[(group, made, s) for s in range(SEATS)] for _, group, made in ended]
        return Turn(
            seat=seat,
            offsets=np.arange(self.count + 1) * 4,
            moves=np.tile(np.arange(4), self.count),
            legal=np.tile(np.arange(4), self.count),
            observation={"seen": np.stack([self.group, self.made, seat], 1).astype(np.float32)},
            group=self.group.copy(),
            finished=finished,
            payoff=payoff,
            reward=going,
            truncated=np.array([[group % 2 == 1] * SEATS for _, group, _ in ended], np.bool_),
            final={"seen": np.array(final, np.float32).reshape(-1, SEATS, 3)},
        )


@dataclass
class Third:
    """Does 1 + the moves made, modulo 4; remembers how often it acted in a game."""

    explored: set[float] = field(default_factory=set)

    def act(
        self, decisions: Decisions, random: np.random.Generator, exploration: float = 0.0
    ) -> Choices:
        self.explored.add(exploration)
        made = decisions.observation["seen"][:, 1]
        assert (decisions.state["h"][:, 0] == 7 + made // 2).all()
        action = (1 + made.astype(np.int64)) % 4
        state = {"h": decisions.state["h"] + 1}
        return Choices(action, np.zeros(len(action), np.float32), action, state)

    def values(self, decisions: Decisions) -> NDArray[np.float32]:
        raise NotImplementedError

    def initial(self, count: int) -> Columns:
        return {"h": np.full((count, 1), 7.0, np.float32)}

    def load(self, tensors: Mapping[str, Array]) -> None:
        raise NotImplementedError


def a_player(policy: str, *seats: int, frozen: bool = False, explores: bool = True) -> Player:
    return Player(policy, seats, SPACES, Third(), 3, frozen, explores)


def play(players: list[Player], count: int = 4, **options: Any) -> list[Round]:
    random = np.random.default_rng(0)
    settings = {"block_steps": None, "games": 3, "author": AUTHOR, "exploration": lambda v: v / 10}
    return list(run_loop(Race(count), players, random, **{**settings, **options}))


def fragments(block: Episodes) -> dict[tuple[int, int], slice]:
    ends = np.cumsum(block.length)
    return {
        (int(group), int(seat)): slice(end - length, end)
        for group, seat, end, length in zip(
            block.group, block.seat, ends, block.length, strict=True
        )
    }


def earned(group: int, seat: int) -> list[float]:
    """What each decision of a seat brings: its action, and 0.5 for each move of the other after it."""
    moves = 3 + group % 3
    return [(1 + made) % 4 + 0.5 * (made + 1 < moves) for made in range(seat, moves, 2)]


def test_rewards_go_to_the_decision_before_them() -> None:
    *_, last = play([a_player("p", 0, 1)])
    (block,) = last.blocks
    found = fragments(block)
    assert sorted({group for group, _ in found}) == list(range(12)), "three games on each table"
    for (group, seat), steps in found.items():
        assert block.reward[steps].tolist() == earned(group, seat)
        assert (block.observation["seen"][steps, 0] == group).all()
        assert block.action["action"][steps].tolist() == [
            (1 + made) % 4 for made in range(seat, 3 + group % 3, 2)
        ]


def test_games_stopped_from_outside_keep_what_was_seen_last() -> None:
    *_, last = play([a_player("p", 0, 1)])
    (block,) = last.blocks
    for i, (group, seat) in enumerate(fragments(block)):
        ending = Ending.TRUNCATED if group % 2 else Ending.TERMINATED
        assert block.ending[i] == ending
        assert block.final["seen"][i].tolist() == [group, 3 + group % 3, seat]
    assert block.initial["h"].tolist() == [[7.0]] * block.fragments


def test_rounds_tell_who_finished_and_count_only_games_asked_for() -> None:
    rounds = play([a_player("p", 0, 1)])
    finished = [table for one in rounds for table in one.finished.tolist()]
    assert sorted(finished) == sorted([0, 1, 2, 3] * 3)
    assert all(len(one.finished) == len(one.payoff) for one in rounds)


def test_a_frozen_player_sits_where_it_is_told_and_leaves_nothing() -> None:
    learner, guest = a_player("p", 0, 1), a_player("old", 0, 1, frozen=True, explores=False)
    seating = np.zeros((4, SEATS), np.int64)
    seating[1, 0] = seating[2, 1] = 1
    *_, last = play([learner, guest], seating=seating)
    (block,) = last.blocks
    assert block.policy == "p"
    found = fragments(block)
    assert {seat for group, seat in found if group % 4 == 1} == {1}
    assert {seat for group, seat in found if group % 4 == 2} == {0}
    assert {seat for group, seat in found if group % 4 == 3} == {0, 1}
    for (group, seat), steps in found.items():
        assert block.reward[steps].tolist() == earned(group, seat)
    assert isinstance(learner.acting, Third)
    assert isinstance(guest.acting, Third)
    assert (learner.acting.explored, guest.acting.explored) == ({0.3}, {0.0})


def test_seats_may_change_hands_between_games() -> None:
    learner, guest = a_player("p", 0, 1), a_player("old", 0, 1, frozen=True)
    seating = np.zeros((1, SEATS), np.int64)
    random = np.random.default_rng(0)
    rounds = run_loop(
        Race(1), [learner, guest], random, exploration=lambda v: 0.0, author=AUTHOR,
        block_steps=None, seating=seating, games=4,
    )  # fmt: skip
    blocks = []
    for number, one in enumerate(rounds):
        blocks += one.blocks
        if one.finished.size:
            seating[0] = (number % 2, 1 - number % 2)
    (block,) = blocks
    seats = {group: {s for g, s in fragments(block) if g == group} for group in range(4)}
    assert seats[0] == {0, 1}
    assert all(len(seats[group]) == 1 for group in range(1, 4))


def test_a_policy_that_never_acted_leaves_an_empty_block() -> None:
    seating = np.zeros((2, SEATS), np.int64)
    *_, last = play([a_player("p", 0, 1), a_player("q", 0, 1)], 2, seating=seating)
    mine, other = last.blocks
    assert mine.steps > 0
    assert (other.policy, other.steps, other.fragments) == ("q", 0, 0)
