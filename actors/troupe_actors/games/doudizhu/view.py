"""What one seat knows of its table, for people and rule-based agents."""

from typing import NamedTuple

from troupe_actors.games.doudizhu import engine
from troupe_actors.games.doudizhu.cards import DECK_COUNTS, thermometer
from troupe_actors.games.doudizhu.moves import PASS


class View(NamedTuple):
    """A table as `seat` sees it; sets of cards and moves are words, as in `cards`."""

    seat: int
    """Who looks."""
    mover: int
    """Who is to move; the winner, once the game is over."""
    group: int
    """The number of the deal."""
    hand: int
    """The cards of `seat`."""
    unseen: int
    """The cards of the other two seats together."""
    left: tuple[int, int, int]
    """How many cards each seat holds."""
    played: tuple[int, int, int]
    """The cards each seat has played."""
    latest: tuple[int | None, int | None, int | None]
    """Each seat's latest move; None where it has made none."""
    to_beat: int
    """The move on the table; 0 when the mover leads."""
    to_beat_by: int
    """Whose move that is; the mover when it leads."""
    bombs: int
    """Bombs played, the rocket included."""

    @property
    def over(self) -> bool:
        """Whether somebody has played out."""
        return 0 in self.left


def view_of(table: engine.Table, seat: int) -> View:
    """What `seat` knows of a table."""
    played = table.played.tolist()
    hand = int(table.hand[seat])
    latest = [move if table.made > i else None for i, move in enumerate(table.latest.tolist())]
    mover, to_beat = int(table.seat), int(table.to_beat)
    over = not table.left.all()
    behind = 0 if over or to_beat == PASS else 1 + int(table.passes)
    left = table.left.tolist()
    return View(
        seat=seat,
        mover=mover,
        group=int(table.group),
        hand=thermometer(hand),
        unseen=thermometer(DECK_COUNTS - hand - sum(played)),
        left=(left[0], left[1], left[2]),
        played=(thermometer(played[0]), thermometer(played[1]), thermometer(played[2])),
        latest=(latest[0], latest[1], latest[2]),
        to_beat=to_beat,
        to_beat_by=(mover - behind) % 3,
        bombs=int(table.bombs),
    )
