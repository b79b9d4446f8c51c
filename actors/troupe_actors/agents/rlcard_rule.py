"""RLCard's `doudizhu-rule-v1` at our tables, as a yardstick that others have measured too.

Its rule is asked through its own `step`; only the state is ours, told in its words. Three things
are told apart and counted, because they change what the yardstick measures:

- Where it leads or finds a move of the same type it is deterministic. Where it finds none it rolls
  dice over all legal moves, by its rule. Those dice are replaced by ours, so a seed repeats a match.
- Moves that RLCard's rules do not know (both jokers as kickers, five triples in a row read as four
  with kickers) are not offered to it; where one is to be beaten, another of its type stands in.
- An answer that is not legal here is a fault and ends the match; nothing is put in its place.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, NamedTuple, Protocol, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from troupe.errors import TroupeError, UserError
from troupe_actors.agents import Position
from troupe_actors.agents._doudizhu_view import View, read
from troupe_actors.games import Game
from troupe_actors.games.doudizhu.moves import PASS, ROCKET, shape_of
from troupe_actors.games.doudizhu.names import letters, parse_move

GAME = "doudizhu"
EXTRA = "rlcard"

LANDLORD: Final = 0
_PLAIN: Final = {1: "solo", 2: "pair", 3: "trio", 4: "bomb"}
_DICE: Final = "decisions by its own dice"
_HIDDEN: Final = "moves unknown to RLCard, not offered"
_STAND_INS: Final = "moves to beat unknown to RLCard, replaced by one of their type"


class AgentError(TroupeError):
    """An agent did what it must not."""


class _State(TypedDict):
    """What RLCard's rule reads of its `raw_obs`."""

    current_hand: str
    trace: Sequence[tuple[int, str]]
    actions: Sequence[str]
    landlord: int
    self: int


class _Rule(Protocol):
    def step(self, state: Mapping[str, _State]) -> object: ...


class _Entry(NamedTuple):
    """A move in RLCard's words."""

    text: str
    order: int
    """Its place in RLCard's listing, which decides between moves of one type and rank; -1 if unknown."""


class RLCardRuleAgent:
    """RLCard's rule for every seat."""

    name = "rlcard-rule"

    def __init__(self) -> None:
        self._rule, self._order, self._types = _load()
        self._entries: dict[int, _Entry] = {PASS: _Entry("pass", 0)}
        self._counts: Counter[str] = Counter()

    def act(self, position: Position, random: np.random.Generator) -> NDArray[np.int64]:
        """[B]: RLCard's answer for each table.

        Raises:
            AgentError: an answer is not among the legal moves.
        """
        view = read(position)
        moves, bounds = position.moves.tolist(), position.offsets.tolist()
        choice = np.empty(len(position.seat), np.int64)
        for b, seat in enumerate(position.seat.tolist()):
            legal = moves[bounds[b] : bounds[b + 1]]
            choice[b] = legal.index(self._answer(seat, view, b, legal, random))
        return choice

    def remarks(self) -> Mapping[str, int]:
        """How often the yardstick was not simply RLCard's rule."""
        return dict(self._counts)

    def _answer(
        self, seat: int, view: View, b: int, legal: list[int], random: np.random.Generator
    ) -> int:
        to_beat = int(view.to_beat[b])
        known = self._known(legal) if to_beat else []  # where it leads, it reads its hand alone
        state = _State(
            current_hand=letters(int(view.hand[b])),
            trace=_trace(seat, int(view.leader[b]), self._target(to_beat)) if to_beat else [],
            actions=known,
            landlord=LANDLORD,
            self=seat,
        )
        answer = self._rule.step({"raw_obs": state})
        if type(answer) is np.str_ and len(known) > 1:  # only its dice answer in NumPy's strings
            self._counts[_DICE] += 1
            answer = known[random.integers(len(known))]
        move = _move(answer)
        if move not in legal:
            raise AgentError(
                f"rlcard-rule: answered {answer!r}, which is not legal here (hand "
                f"{state['current_hand']}, to beat {letters(to_beat) or 'nothing'})"
            )
        return move

    def _known(self, legal: list[int]) -> list[str]:
        """The moves that RLCard knows, in its order."""
        entries = [self._entry(move) for move in legal]
        known = sorted((entry for entry in entries if entry.order >= 0), key=lambda e: e.order)
        if len(known) < len(entries):
            self._counts[_HIDDEN] += len(entries) - len(known)
        return [entry.text for entry in known]

    def _target(self, to_beat: int) -> str:
        entry = self._entry(to_beat)
        if entry.order >= 0:
            return entry.text
        self._counts[_STAND_INS] += 1
        return self._types[_type_name(to_beat)]

    def _entry(self, move: int) -> _Entry:
        entry = self._entries.get(move)
        if entry is None:
            text = letters(move)
            entry = self._entries[move] = _Entry(text, self._order.get(text, -1))
        return entry


def create(game: Game) -> RLCardRuleAgent:
    """Plays Dou Dizhu.

    Raises:
        UserError: RLCard is not installed.
    """
    return RLCardRuleAgent()


def _trace(seat: int, leader: int, target: str) -> list[tuple[int, str]]:
    """The end of RLCard's record: the move to beat, and the pass after it where there was one."""
    before = (seat - 1) % 3
    return [(leader, target)] if leader == before else [(leader, target), (before, "pass")]


def _move(answer: object) -> int | None:
    """The move that an answer names, if it names one."""
    try:
        return parse_move(str(answer))
    except ValueError:
        return None


def _type_name(move: int) -> str:
    """What RLCard calls the type of a move."""
    if move == ROCKET:
        return "rocket"
    copies, length, kicker, _ = shape_of(move)
    carried = ("", "_solo", "_pair")[kicker]
    if copies == 4 and kicker:
        return f"four_two{carried}"
    return f"{_PLAIN[copies]}{carried}" + (f"_chain_{length}" if length > 1 else "")


@cache
def _load() -> tuple[_Rule, Mapping[str, int], Mapping[str, str]]:
    """The rule, the place of each move in RLCard's listing (1 and up), and a move of each type."""
    try:
        from rlcard.games.doudizhu.utils import TYPE_CARD
        from rlcard.models.doudizhu_rule_models import DouDizhuRuleAgentV1
    except ModuleNotFoundError as error:
        if error.name != EXTRA:
            raise
        raise UserError(
            "rlcard-rule needs the package rlcard; pip install 'troupe[rlcard]'"
        ) from None
    listing = cast(Mapping[str, Mapping[str, Sequence[str]]], TYPE_CARD)
    texts = [text for ranks in listing.values() for moves in ranks.values() for text in moves]
    order = {text: place for place, text in enumerate(texts, start=1)}
    types = {name: next(iter(next(iter(ranks.values())))) for name, ranks in listing.items()}
    return DouDizhuRuleAgentV1(), order, types
