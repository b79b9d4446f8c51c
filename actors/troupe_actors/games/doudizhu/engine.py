"""Tables as records, and the one compiled call that advances them all."""

from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from troupe_actors.games import WAIT
from troupe_actors.games.doudizhu import features
from troupe_actors.games.doudizhu.cards import HAND_SIZES, counts, deal, deal_key, size, thermometer
from troupe_actors.games.doudizhu.compiled import compiled
from troupe_actors.games.doudizhu.moves import PASS, is_bomb, list_moves

MOST_MOVES: Final = 640
"""Room for the legal moves of any hand, and what is written on the way to them: listing the leads
of each of the 115,033,295 hands of 20 cards gave at most 519 moves and touched 612 places."""

RECORD: Final = np.dtype(
    [
        ("state", "<i8", features.STATE_WORDS),
        ("history", "<i8", features.HISTORY_WORDS),
        ("hand", "<i8", 3),
        ("played", "<i8", 3),
        ("latest", "<i8", 3),
        ("left", "<i8", 3),
        ("to_beat", "<i8"),
        ("chosen", "<i8"),
        ("group", "<i8"),
        ("made", "<i8"),
        ("bombs", "<i8"),
        ("passes", "<i8"),
        ("seat", "u1"),
        ("done", "?"),
    ],
    align=True,
)


class Table(Protocol):
    """One table: a `RECORD`."""

    state: NDArray[np.int64]
    """What the seat to move sees, as `features` says."""
    history: NDArray[np.int64]
    """The latest moves, likewise."""
    hand: NDArray[np.int64]
    """[3]: what each seat holds, as counts."""
    played: NDArray[np.int64]
    """[3]: what each seat has played, as counts."""
    latest: NDArray[np.int64]
    """[3]: each seat's latest move, a pass included."""
    left: NDArray[np.int64]
    """[3]: how many cards each seat holds."""
    to_beat: int
    """The move on the table; 0 when the seat to move leads."""
    chosen: int
    """The move that is about to be made."""
    group: int
    """The number of the deal."""
    made: int
    """Moves made in this game."""
    bombs: int
    """Bombs played, the rocket included."""
    passes: int
    """How many seats have passed since the move on the table."""
    seat: int
    """Who is to move; the winner, once the game has ended."""
    done: bool
    """Whether this table plays no more."""


class Settings(NamedTuple):
    """What the compiled call needs to know besides the tables."""

    seed: np.uint64
    both_jokers: bool
    four_with_two: bool
    bomb_doubling: bool
    skip_forced: bool
    endless: bool
    """Deal a table anew when its game ends; else it is done."""


@compiled
def start(table: Table, hands: tuple[int, int, int], group: int) -> None:
    """Put a deal on a table: the counts of three hands; the landlord leads."""
    for seat in range(3):
        table.hand[seat] = hands[seat]
        table.played[seat] = 0
        table.latest[seat] = PASS
        table.left[seat] = HAND_SIZES[seat]
    table.history[:] = 0
    table.to_beat = PASS
    table.group = group
    table.made = 0
    table.bombs = 0
    table.passes = 0
    table.seat = 0
    table.done = False


@compiled
def make(table: Table, move: int) -> bool:
    """Make a legal move; whether it ended the game, in which case the turn stays with the winner."""
    seat = table.seat
    features.remember(table.history, move)
    table.latest[seat] = move
    table.made += 1
    if move == PASS:
        table.passes += 1
        if table.passes == 2:
            table.to_beat = PASS
    else:
        cards = counts(move)
        table.hand[seat] -= cards
        table.played[seat] += cards
        table.left[seat] -= size(move)
        table.to_beat = move
        table.passes = 0
        table.bombs += is_bomb(move)
        if table.left[seat] == 0:
            return True
    table.seat = seat + 1 if seat < 2 else 0
    return False


@compiled
def pay(table: Table, bomb_doubling: bool, payoff: NDArray[np.float32]) -> None:
    """Write what each seat gets, float32 [3], when the seat to move has no cards left."""
    stake = 1 << table.bombs if bomb_doubling else 1
    landlord = stake if table.seat == 0 else -stake
    payoff[0] = landlord
    payoff[1] = -landlord
    payoff[2] = -landlord


@compiled
def observe(table: Table, seat: int, row: NDArray[np.int64]) -> None:
    """Write what `seat` sees of a table into `row`, int64 [7]."""
    features.write_state(
        seat,
        table.hand,
        table.played,
        table.latest,
        table.to_beat,
        table.bombs,
        table.left,
        row,
    )


@compiled
def deal_all(tables: NDArray[np.void], seed: np.uint64) -> None:
    """Put the first deals of a seed on tables: table t of T plays the deals t, t + T, ..."""
    for t in range(len(tables)):
        start(tables[t], deal(deal_key(seed, t)), t)


@compiled
def choose(
    tables: NDArray[np.void],
    moves: NDArray[np.int64],
    offsets: NDArray[np.int64],
    choice: NDArray[np.int64],
    totals: NDArray[np.int64],
) -> int:
    """Note every table's chosen move; the first table whose choice is out of range, or -1."""
    forced = 0
    for t in range(len(tables)):
        table: Table = tables[t]
        if table.done or choice[t] == WAIT:
            continue
        options = offsets[t + 1] - offsets[t]
        if choice[t] < 0 or choice[t] >= options:
            return t
        table.chosen = moves[offsets[t] + choice[t]]
        forced += options == 1
    totals[1] += forced
    return -1


@compiled
def advance(
    tables: NDArray[np.void],
    moves: NDArray[np.int64],
    offsets: NDArray[np.int64],
    choice: NDArray[np.int64],
    ended: NDArray[np.int64],
    payoff: NDArray[np.float32],
    totals: NDArray[np.int64],
    settings: Settings,
) -> int:
    """Make the chosen moves, then bring every table to its next decision.

    Args:
        moves, offsets: the legal moves that were chosen among, replaced by the next ones.
        choice: [T], `WAIT` where none is made; or [0] to make no move.
        ended, payoff: [T], [T, 3]: filled from the front with the games that end.
        totals: decisions and forced decisions so far, [2].

    Returns:
        How many games ended; or -1 - t if the choice of table t is out of range: nothing moved.
    """
    if len(choice):
        wrong = choose(tables, moves, offsets, choice, totals)
        if wrong >= 0:
            return -1 - wrong
    count = len(tables)
    games, end = 0, 0
    for t in range(count):
        table: Table = tables[t]
        offsets[t] = end
        if table.done:
            continue
        over = False
        if len(choice) and choice[t] != WAIT:
            over = make(table, table.chosen)
            totals[0] += 1
        while True:
            if over:
                ended[games] = t
                pay(table, settings.bomb_doubling, payoff[games])
                games += 1
                if not settings.endless:
                    table.done = True
                    end = offsets[t]
                    break
                number = table.group + count
                start(table, deal(deal_key(settings.seed, number)), number)
            hand = thermometer(table.hand[table.seat])
            end = list_moves(
                hand,
                table.to_beat,
                settings.both_jokers,
                settings.four_with_two,
                moves,
                offsets[t],
            )
            if not settings.skip_forced or end - offsets[t] > 1:
                observe(table, table.seat, table.state)
                break
            over = make(table, moves[offsets[t]])
            totals[0] += 1
            totals[1] += 1
    offsets[count] = end
    return games
