"""Fixed deals to judge play by: the same for everyone who names the same seed, file or hash.

A deal file is text: one deal a line, the cards of each seat in order, separated by spaces. What
follows a `#` is a remark. `python -m troupe_actors.deals doudizhu 1000 --seed 7` writes one.
"""

import argparse
import hashlib
import sys
from pathlib import Path
from typing import NamedTuple, Protocol, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from troupe import seeding
from troupe.errors import UserError
from troupe_actors.games import Game, Tables, Turn, load

Hands = NDArray[np.uint64]


class DealTables(Tables, Protocol):
    """Tables that can be dealt by hand."""

    def deal(self, hands: Hands) -> Turn:
        """Play these deals, uint64 [T, seats], one a table and each once."""
        ...

    @property
    def done(self) -> NDArray[np.bool_]:
        """[T]: tables that play no more."""
        ...


class Names(Protocol):
    """Sets of cards in writing."""

    def letters(self, cards: int) -> str:
        """A letter a card."""
        ...

    def parse_move(self, text: str) -> int:
        """The set of cards that `letters` wrote; ValueError where it is none."""
        ...


class Dealer(Protocol):
    """What a game's module offers to be judged on fixed deals."""

    names: Names
    """Not where a deal is but a number."""

    def deal_hands(self, key: int) -> Hands:
        """[seats]: the deal of a 64-bit key; or [1]: a number that all its chance follows from."""
        ...


class Deals(NamedTuple):
    """Deals of one game, and where they come from."""

    hands: Hands
    """[D, seats]: a set of cards for each seat; or [D, 1]: a number that its chance follows from."""
    source: str
    """A seed or a file, for a person."""

    @property
    def hash(self) -> str:
        """SHA-256 of the deals as little-endian words: equal for equal deals, whatever their source."""
        return hashlib.sha256(self.hands.astype("<u8").tobytes()).hexdigest()


def generate(game: Game, count: int, seed: int) -> Deals:
    """The first `count` validation deals of a seed; a longer list begins with the shorter one.

    Raises:
        UserError: `count` is not positive, or the game has no deals.
    """
    if count < 1:
        raise UserError(f"--deals: {count} is not a number of deals; 1 or more")
    hands = [deal(game, seeding.key(seed, "validation", i)) for i in range(count)]
    return Deals(np.stack(hands), f"seed {seed}")


def deal(game: Game, key: int) -> Hands:
    """[seats]: the deal of a 64-bit key.

    Raises:
        UserError: the game has no deals.
    """
    return dealer(game).deal_hands(key)


def read(game: Game, path: Path) -> Deals:
    """Read a deal file.

    Raises:
        UserError: it cannot be read, is empty, or a line is not a deal of this game.
    """
    names = _names(game)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a deal file: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != len(game.seats):
            raise UserError(
                f"{path}, line {number}: {len(words)} hands; a deal has one for each of "
                f"{', '.join(game.seats)}"
            )
        try:
            row = np.array([[names.parse_move(word) for word in words]], np.uint64)
            tables(game, 1).deal(row)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no deals in it; `python -m troupe_actors.deals` writes some")
    return Deals(np.concatenate(rows), str(path))


def write(game: Game, dealt: Deals, file: TextIO) -> None:
    """Write a deal file that `read` reads back."""
    names = _names(game)
    print(f"# {game.name}: {' '.join(game.seats)}", file=file)
    print(f"# {dealt.source}, sha256 {dealt.hash}", file=file)
    for hands in dealt.hands.tolist():
        print(*map(names.letters, hands), file=file)


def tables(game: Game, count: int) -> DealTables:
    """Tables that wait for their deals."""
    return cast(DealTables, game.tables(count, 0))


def dealer(game: Game) -> Dealer:
    """The part of a game's module that deals.

    Raises:
        UserError: the game has none.
    """
    module = sys.modules[type(game).__module__]
    if not hasattr(module, "deal_hands"):
        raise UserError(f"game.name: {game.name!r} has no deals to judge play by (deal_hands)")
    return cast(Dealer, module)


def _names(game: Game) -> Names:
    """How a game's deals are written.

    Raises:
        UserError: they are not: a deal is a number from which the game's chance follows.
    """
    found = getattr(dealer(game), "names", None)
    if found is None:
        raise UserError(f"--deal-file: deals of {game.name} are not written down; use --seed")
    return cast(Names, found)


def main() -> None:
    """Print a deal file."""
    parser = argparse.ArgumentParser(prog="python -m troupe_actors.deals", description=__doc__)
    parser.add_argument("game", help="the game's name, such as doudizhu")
    parser.add_argument("count", type=int, help="how many deals")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    game = load(options.game, {})
    write(game, generate(game, options.count, options.seed), sys.stdout)


if __name__ == "__main__":
    main()
