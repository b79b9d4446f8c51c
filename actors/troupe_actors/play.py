"""A person at the terminal: sits at one seat of a table, with agents at the others."""

import importlib
from collections.abc import Iterator
from typing import Protocol, TextIO, cast

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from troupe import seeding
from troupe.errors import UserError
from troupe_actors import deals
from troupe_actors.agents import Agent, Position, select
from troupe_actors.games import Game, Turn

MANY_MOVES = 24
"""More legal moves than this are listed only when asked for."""
HINTS = 5
PASS = "pass"


class Adviser(Agent, Protocol):
    """An agent that can say what it thinks of each move."""

    def values(self, position: Position) -> NDArray[np.float32]:
        """[M]: how good each legal move of a single table looks to the seat to move."""
        ...


class _Tables(deals.DealTables, Protocol):
    """Tables that a person can be shown."""

    def view(self, table: int, seat: int) -> object: ...

    def hands(self) -> deals.Hands: ...


class _PlayableGame(Game, Protocol):
    def parse_move(self, text: str) -> int: ...


class _Left(Exception):  # noqa: N818 - not an error: the person has gone
    """The person has left the table."""


def find_seat(game: Game, name: str) -> int:
    """The seat of that name; the first one for an empty name.

    Raises:
        UserError: the game has no such seat.
    """
    if not name:
        return 0
    if name not in game.seats:
        raise UserError(f"--seat: {game.name} has no seat {name!r}; it has {', '.join(game.seats)}")
    return game.seats.index(name)


def play(
    game: Game,
    agent: Adviser,
    seat: int,
    seed: int,
    console: Console,
    stream: TextIO | None = None,
) -> float:
    """Play deals until the person leaves; returns what they have won.

    `stream` is where the person's words come from; the terminal where it is None.

    Raises:
        UserError: the game cannot be played at a terminal.
    """
    parlour = Parlour(game, agent, seat, seed, console, stream)
    try:
        parlour.play()
    except (_Left, KeyboardInterrupt, EOFError):
        console.print()
    console.print(parlour.summary())
    return parlour.won


class Parlour:
    """One sitting: a person, a seat, and as many deals as they like."""

    def __init__(
        self,
        game: Game,
        agent: Adviser,
        seat: int,
        seed: int,
        console: Console,
        stream: TextIO | None,
    ) -> None:
        module = type(game).__module__
        try:
            self._render = importlib.import_module(f"{module}.render").render
        except ModuleNotFoundError:
            raise UserError(f"game.name: {game.name!r} cannot be shown at a terminal") from None
        self._game = cast(_PlayableGame, game)
        self._agent = agent
        self._seat = seat
        self._seed = seed
        self._console = console
        self._stream = stream
        self._random = seeding.stream(seed, "play")
        self._tables = cast(_Tables, game.tables(1, seed, skip_forced=False))
        self.won = 0.0
        self._played = 0

    def play(self) -> None:
        """Deal after deal.

        Raises:
            EOFError, KeyboardInterrupt, _Left: the person has gone.
        """
        self._console.print(
            f"You are {self._game.seats[self._seat]}. Write cards to play them, such as 34567 or "
            "333+4, or #2 for\nthe second move listed; pass, moves, ? for a hint, quit.",
            style="dim",
            highlight=False,
        )
        for hands in self._deals():
            self._play_deal(hands)
            if self._ask("Another deal? [Y/n] ").lower() in ("n", "no", "q", "quit"):
                return

    def summary(self) -> str:
        """How the sitting went."""
        deals_ = f"{self._played} deal{'s' * (self._played != 1)}"
        return f"{deals_} played, {self.won:+.0f} points. Good bye."

    def _deals(self) -> Iterator[deals.Hands]:
        number = 0
        while True:
            yield deals.deal(self._game, seeding.key(self._seed, "play", number))
            number += 1

    def _play_deal(self, hands: deals.Hands) -> None:
        turn = self._tables.deal(hands[None])
        while not turn.finished.size:
            position = select(turn, np.arange(1))
            mine = int(turn.seat[0]) == self._seat
            choice = self._choose(position) if mine else self._agent.act(position, self._random)
            turn = self._tables.play(choice)
        self._tell(turn)

    def _choose(self, position: Position) -> NDArray[np.int64]:
        """Show the table and hear the person's move."""
        moves = [self._game.describe(move) for move in position.moves.tolist()]
        self._show_table()
        if moves == [PASS]:
            self._console.print("You have nothing to beat that: pass.", style="dim")
            return np.zeros(1, np.int64)
        if len(moves) <= MANY_MOVES:
            self._list(moves)
        else:
            self._console.print(f"{len(moves)} legal moves; `moves` lists them.", style="dim")
        while True:
            word = self._ask("Your move: ").strip()
            if word.lower() in ("quit", "exit"):
                raise _Left
            if word.lower() in ("?", "h", "hint"):
                self._hint(position, moves)
            elif word.lower() in ("m", "moves", ""):
                self._list(moves)
            elif (choice := self._read(word, position, moves)) is not None:
                return np.array([choice], np.int64)

    def _read(self, word: str, position: Position, moves: list[str]) -> int | None:
        """The legal move that a word names; otherwise says what is wrong with it."""
        if word.startswith("#"):
            number = int(word[1:]) if word[1:].isdecimal() else 0
            if 1 <= number <= len(moves):
                return number - 1
            self._complain(f"there are moves #1 to #{len(moves)}")
            return None
        try:
            move = self._game.parse_move(word)
        except ValueError as error:
            self._complain(str(error))
            return None
        legal: list[int] = position.moves.tolist()
        if move in legal:
            return legal.index(move)
        leave = "; to leave, write quit" if word == "q" else ""
        self._complain(f"{word} is not legal here{leave}")
        return None

    def _show_table(self) -> None:
        view = self._tables.view(0, self._seat)
        shown: RenderableType = self._render(view, self._game.seats)
        self._console.print()
        self._console.print(shown)

    def _list(self, moves: list[str]) -> None:
        entries = [
            Text.assemble((f"#{number} ", "dim"), move) for number, move in enumerate(moves, 1)
        ]
        self._console.print(Columns(entries, padding=(0, 3)))

    def _hint(self, position: Position, moves: list[str]) -> None:
        """What the agents would do, with the value they expect of it."""
        values = self._agent.values(position)
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for heading in ("", "the agents' choice", "value"):
            table.add_column(heading, justify="right" if heading == "value" else "left")
        for row in np.argsort(-values, kind="stable")[:HINTS].tolist():
            table.add_row(f"#{row + 1}", moves[row], f"{values[row]:+.3f}")
        self._console.print(table)

    def _tell(self, turn: Turn) -> None:
        """How the deal ended, and what the others still held."""
        points = float(turn.payoff[0, self._seat])
        self._played += 1
        self.won += points
        self._show_table()
        names = deals.dealer(self._game).names
        for seat, hand in zip(self._game.seats, self._tables.hands()[0].tolist(), strict=True):
            if hand and seat != self._game.seats[self._seat]:
                self._console.print(f"{seat} still held {names.letters(hand)}", style="dim")
        verdict = "You win" if points > 0 else "You lose" if points < 0 else "A draw"
        style = "bold green" if points > 0 else "bold red"
        self._console.print(f"{verdict}: {points:+.0f} ({self.won:+.0f} in all)", style=style)

    def _complain(self, text: str) -> None:
        self._console.print(text, style="yellow", highlight=False, markup=False)

    def _ask(self, prompt: str) -> str:
        """One line from the person.

        Raises:
            EOFError: there is no more.
        """
        if self._stream is None:
            return self._console.input(Text(prompt, style="bold"))
        self._console.print(Text(prompt, style="bold"), end="")
        line = self._stream.readline()
        if not line:
            raise EOFError
        self._console.print()
        return line.strip()
