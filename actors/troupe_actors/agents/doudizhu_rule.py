"""A rule-based agent for Dou Dizhu: keep the hand that needs the fewest lost leads to be played out.

A hand is cut into groups (solos, pairs, trios with their kickers, chains, bombs). A group costs the
lead it will lose: about 1 where someone surely beats it, 0 where nobody can, and less than 0 where
it may win a lead back from others. A move is worth what it leaves behind and how likely it stands.
On top of that: do not fight the teammate, hurry when an enemy is about to go out, and go out when
the rest cannot be stopped. The agent counts on what its seat can see, and on nothing else.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from troupe_actors.agents import Position
from troupe_actors.agents._doudizhu_view import read
from troupe_actors.games import Game
from troupe_actors.games.doudizhu.cards import BLACK_JOKER, ONES, RANKS, RED_JOKER, size
from troupe_actors.games.doudizhu.compiled import compiled
from troupe_actors.games.doudizhu.moves import PASS, ROCKET, SHORTEST, body, is_bomb, shape_of

GAME = "doudizhu"
ACE, PLACES, BLACK, RED = 11, 15, 13, 14
"""Ranks from 0 for a 3; the jokers follow the 2."""
MOST_CHAINS = 5
"""One more than the shortest chains that 20 cards hold."""
WIN, SURE = 1000.0, 100.0

Counts = NDArray[np.int64]
"""[15]: cards of each rank."""
Chances = NDArray[np.float64]
"""[5, 15]: the chance that a group of a rank stands: solo, pair, trio, chain of solos, of pairs."""


class Taste(NamedTuple):
    """What the rule is made of; found by playing variants against each other."""

    solo: float = 0.8
    """How much each higher card outside lowers the chance that a solo stands (log scale)."""
    pair: float = 2.1
    """The same for a pair, and each higher rank that others may hold twice."""
    trio: float = 0.06
    """The same for trios and planes."""
    chain: float = 0.16
    """The same for chains of solos or pairs."""
    regain: float = 0.46
    """What a solo or pair that surely stands wins back when others lead."""
    bomb: float = 2.8
    """What a bomb in hand is worth, in leads."""
    trust: float = 0.26
    """What the teammate's standing move is worth, in leads."""
    hurry: float = 1.85
    """How much a pass costs when the enemy who leads holds few cards."""
    respect: float = 1.3
    """What it costs to take the lead from the teammate with a bomb or an ace and above."""
    guard: float = 9.0
    """How much it costs to lead what lets an enemy with one or two cards go out."""
    help: float = 3.3
    """What it is worth to lead what a teammate with one or two cards can go out with."""


class RuleAgent:
    """Plays every seat by the same rule, without memory and without chance."""

    name = "rule"

    def __init__(self, taste: Taste | None = None) -> None:
        self._taste = taste or Taste()

    def act(self, position: Position, random: np.random.Generator) -> NDArray[np.int64]:
        """[B]: the best legal move of each table."""
        view = read(position)
        words = np.stack([view.hand, view.others, view.to_beat], axis=1).astype(np.int64)
        seats = np.column_stack([position.seat, view.leader, view.left]).astype(np.int64)
        choice = np.zeros(len(seats), np.int64)
        moves = position.moves.astype(np.int64)
        _choose_all(words, seats, moves, position.offsets, self._taste, choice)
        return choice

    def remarks(self) -> Mapping[str, int]:
        """Nothing to say."""
        return {}


def create(game: Game) -> RuleAgent:
    """Plays Dou Dizhu under any of its options: it picks among the listed moves."""
    return RuleAgent()


class _Table(NamedTuple):
    """One table, as the seat to move sees it."""

    hand: int
    to_beat: int
    leader: int
    me: int
    mate: int
    """-1 for the landlord."""
    left: NDArray[np.int64]
    """[3]: cards left by seat."""
    threat: int
    """The fewest cards an enemy holds."""
    out: Counts
    """What the others hold together."""
    stands: Chances


@compiled
def _choose_all(
    words: NDArray[np.int64],
    seats: NDArray[np.int64],
    moves: NDArray[np.int64],
    offsets: NDArray[np.int64],
    taste: Taste,
    choice: NDArray[np.int64],
) -> None:
    for b in range(len(choice)):
        me, left = seats[b, 0], seats[b, 2:]
        out = _ranks(words[b, 1])
        table = _Table(
            hand=words[b, 0],
            to_beat=words[b, 2],
            leader=seats[b, 1],
            me=me,
            mate=3 - me if me else -1,
            left=left,
            threat=left[0] if me else min(left[1], left[2]),
            out=out,
            stands=_chances(out, left, me, taste),
        )
        best = -np.inf
        for row in range(offsets[b], offsets[b + 1]):
            worth = _worth(moves[row], table, taste)
            if worth > best:
                best = worth
                choice[b] = row - offsets[b]


@compiled
def _worth(move: int, table: _Table, taste: Taste) -> float:
    """The hand a move leaves, the lead it may keep, and what it does to the others; in leads."""
    if move == PASS:
        worth = -_cost(table.hand, table.stands, taste)
        if table.leader == table.mate:
            return worth + taste.trust
        return worth - taste.hurry * _urgency(table.left[table.leader])
    rest = _ranks(table.hand) - _ranks(move)
    if rest.sum() == 0:
        return WIN
    chance = _chance(move, table.stands, table.threat)
    left = _word(rest)
    worth = chance - _cost(left, table.stands, taste)
    if chance == 1.0 and _is_one_move(left):
        return worth + SURE
    if table.to_beat == PASS:
        return worth + _feeding(move, table, taste)
    if table.leader == table.mate and (is_bomb(move) or _lowest(move) >= ACE):
        worth -= taste.respect
    return worth


@compiled
def _feeding(move: int, table: _Table, taste: Taste) -> float:
    """Leading a solo or a pair feeds who holds just that many: bad for an enemy, good for a mate."""
    cards = size(move)
    if cards > 2 or move == ROCKET:
        return 0.0
    rank, higher, total = _lowest(move), 0, 0
    for r in range(PLACES):
        if table.out[r] >= cards:
            total += table.out[r]
            higher += table.out[r] * (r > rank)
    share = higher / max(total, 1)
    worth = 0.0
    if table.threat == cards:
        worth -= taste.guard * share
    if table.mate >= 0 and table.left[table.mate] == cards:
        worth += taste.help * share * (1.0 if table.me == 1 else 0.5)
    return worth


@compiled
def _urgency(cards: int) -> float:
    """From 0 at eight cards or more to about 1 at two."""
    return max(0.0, (8.0 - cards) / 6.0)


@compiled
def _chances(out: Counts, left: NDArray[np.int64], me: int, taste: Taste) -> Chances:
    """The fewer groups above it outside, and the fewer of those with enemies, the likelier it stands."""
    enemies = left[0] if me else left[1] + left[2]
    share = enemies / max(left.sum() - left[me], 1)
    weights = (taste.solo, taste.pair, taste.trio, taste.chain, taste.chain)
    stands = np.empty((5, PLACES))
    above = np.zeros(5)
    run, pairs = 0, 0
    for r in range(PLACES - 1, -1, -1):
        for kind in range(5):
            stands[kind, r] = np.exp(-weights[kind] * share * above[kind])
        run = run + 1 if out[r] >= 1 and r <= ACE else 0
        pairs = pairs + 1 if out[r] >= 2 and r <= ACE else 0
        above[0] += out[r]
        above[1] += out[r] >= 2
        above[2] += out[r] >= 3
        above[3] += run >= 5
        above[4] += pairs >= 3
    return stands


@compiled
def _chance(move: int, stands: Chances, threat: int) -> float:
    """The chance that nobody beats a move; bombs of others are left out of the account."""
    if move == ROCKET or is_bomb(move):
        return 1.0
    copies, length, _, start = shape_of(move)
    rank = _lowest(start)
    if copies == 4:
        return 0.5
    kind = copies - 1 if length == 1 or copies == 3 else copies + 2
    return float(stands[kind, rank])


@compiled
def _cost(hand: int, stands: Chances, taste: Taste) -> float:
    """How many leads a hand will lose, cut into groups as well as this search can."""
    cost = 0.0
    fours = hand >> 3 & ONES
    cost -= taste.bomb * size(fours)
    hand &= ~(fours * 15)
    if hand & ROCKET == ROCKET:
        hand &= ~ROCKET
        cost -= taste.bomb
    return cost + _cut(_ranks(hand), stands, taste)


@compiled
def _cut(counts: Counts, stands: Chances, taste: Taste) -> float:
    """The least cost over all ways to take chains, of solos and then of pairs, out of `counts`.

    A depth-first search: each chain grows rank by rank, and below every length of it the search goes
    on with chains that start no lower, so that no set of them is tried twice.
    """
    best = _loose(counts, stands, taste)
    held = np.zeros((MOST_CHAINS, 3), np.int64)
    costs = np.zeros(MOST_CHAINS + 1)
    depth, need, low, high = 0, 1, 0, 0
    while True:
        least = SHORTEST[need]
        if high <= ACE and counts[high] >= need:
            counts[high] -= need
            high += 1
            if high - low >= least:
                costs[depth + 1] = costs[depth] + 1.0 - stands[2 + need, low]
                best = min(best, costs[depth + 1] + _loose(counts, stands, taste))
                held[depth] = need, low, high
                depth, high = depth + 1, low
            continue
        counts[low:high] += need
        low += 1
        if low + least > ACE + 1:
            need, low = need + 1, 0
        high = low
        if need > 2:
            if depth == 0:
                return best
            depth -= 1
            need, low, high = held[depth]


@compiled
def _loose(counts: Counts, stands: Chances, taste: Taste) -> float:
    """The cost of what no chain took: planes and trios carry off the most costly solos and pairs."""
    cost = 0.0
    costs = np.zeros(PLACES)
    kickers = 0
    for r in range(PLACES):
        n = counts[r]
        if n == 3:
            kickers += 1
            if r == 0 or r > ACE or counts[r - 1] != 3:
                cost += 1.0 - stands[2, r]
        elif n:
            costs[r] = 1.0 - (1.0 + taste.regain) * stands[n - 1, r]
            cost += costs[r]
    for _ in range(kickers):
        worst = np.argmax(costs)
        cost -= costs[worst]
        costs[worst] = min(costs[worst], 0.0)
    return cost


@compiled
def _is_one_move(cards: int) -> bool:
    """Whether these cards can be played at once."""
    if cards == ROCKET:
        return True
    copies, length, kicker, start = shape_of(cards)
    base = body(start, copies, length)
    if cards & base != base or (length > 1 and length < SHORTEST[copies]):
        return False
    rest = cards & ~base
    number = length if copies == 3 else 2
    if kicker == 2:
        return size(rest) == 2 * number and size(rest >> 1 & ONES) == number
    return size(rest) == kicker * number


@compiled
def _ranks(cards: int) -> Counts:
    """Cards of each rank in a packed word."""
    counts = np.empty(PLACES, np.int64)
    for r in range(RANKS):
        counts[r] = size(cards >> 4 * r & 15)
    counts[BLACK] = (cards & BLACK_JOKER) != 0
    counts[RED] = (cards & RED_JOKER) != 0
    return counts


@compiled
def _word(counts: Counts) -> int:
    """The packed word of cards of each rank."""
    cards = counts[BLACK] * BLACK_JOKER | counts[RED] * RED_JOKER
    for r in range(RANKS):
        cards |= ((1 << counts[r]) - 1) << 4 * r
    return int(cards)


@compiled
def _lowest(cards: int) -> int:
    """Rank of the lowest card."""
    place = size((cards & -cards) - 1)
    return place // 4 if place < 4 * RANKS else place - 3 * RANKS
