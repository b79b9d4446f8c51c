"""Whether a game is sound: it is played at random, twice with one seed."""

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, cast

import numpy as np
import xxhash

from troupe.episodes import Array
from troupe.errors import UserError
from troupe_actors.environments.faults import EnvironmentFaultError, told
from troupe_actors.environments.observations import ALONE, shown_space
from troupe_actors.games import FreeTables, Game, Tables, Turn, load

TABLES: Final = 2
ROUNDS: Final = 300
MOST_ROUNDS: Final = 3000
"""Where no game ends sooner."""
MOST_SECONDS: Final = 2.0
_API_CYCLES: Final = 50


class _Trial(NamedTuple):
    """What random play met."""

    seen: list[int]
    """A hash of every round, the first positions' first."""
    decisions: int
    games: int
    truncated: int
    seconds: float


def report(
    name: str,
    rules: Mapping[str, object],
    *,
    seconds: float = MOST_SECONDS,
    determined: bool = True,
) -> str:
    """One line that says that the game is sound, and how it looks.

    It is tried for so many seconds, and again if it is to be `determined` by its seed.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    try:
        game = load(name, rules)
        first = _try(game, MOST_ROUNDS, seconds)
        second = _try(game, len(first.seen) - 1, seconds) if determined else first
    except EnvironmentFaultError as fault:
        raise UserError(str(fault)) from None
    title = _title(name, rules)
    for number, (one, other) in enumerate(zip(first.seen, second.seen, strict=False)):
        if one != other:
            raise UserError(
                f"game {title!r}: not determined by its seed: the same choices led to something "
                f"else in move {number}"
            )
    facts = [_described(game), f"{first.decisions / max(first.seconds, 1e-9):,.0f} decisions/s"]
    if first.games:
        facts.append(f"{first.decisions / first.games:.0f} a game")
    else:
        facts.append(f"no game ended in {first.decisions:,} random decisions")
    if first.truncated:
        facts.append(f"{first.truncated} of {first.games} games truncated")
    return f"{title}: sound: {', '.join(facts + _complaints(name, rules))}"


def _title(name: str, rules: Mapping[str, object]) -> str:
    """The game, and which one where it stands for many."""
    which = rules.get("game") or rules.get("environment")
    return f"{name} {which}" if which else name


def _try(game: Game, most: int, seconds: float) -> _Trial:
    """Play at random; past ROUNDS only until a game has ended."""
    tables = game.tables(TABLES, 0)
    drawn = _drawer(game, tables)
    start = time.perf_counter()
    turn = tables.turn()
    seen, games, truncated = [_hash(turn)], 0, 0
    while len(seen) <= most and (len(seen) <= ROUNDS or not games):
        if time.perf_counter() - start > seconds:
            break
        turn = drawn(turn)
        games += len(turn.finished)
        truncated += 0 if turn.truncated is None else int(turn.truncated.any(axis=1).sum())
        seen.append(_hash(turn))
    spent = time.perf_counter() - start
    getattr(tables, "close", lambda: None)()
    return _Trial(seen, tables.decisions, games, truncated, spent)


def _drawer(game: Game, tables: Tables) -> Callable[[Turn], Turn]:
    """Plays uniformly among listed moves, and by the seat's own space where none are listed."""
    random = np.random.default_rng(0)
    acts = [game.spaces(seat).action for seat in range(len(game.seats))]
    for space in acts:
        space.seed(0)

    def play(turn: Turn) -> Turn:
        counts = np.diff(turn.offsets)
        choice = random.integers(np.maximum(counts, 1))
        if counts.all():
            return tables.play(choice)
        width = max(space.shape[0] if space.shape else 1 for space in acts)
        action: Array = np.zeros((len(counts), width), acts[int(turn.seat[0])].dtype)
        for t in np.flatnonzero(counts == 0).tolist():
            drawn = acts[int(turn.seat[t])].sample()
            action[t, : drawn.size] = drawn
        return cast(FreeTables, tables).act(choice, action)

    return play


def _hash(turn: Turn) -> int:
    state = xxhash.xxh3_64()
    columns = [*turn.observation.values(), *turn.final.values()]
    columns += [turn.seat, turn.offsets, turn.moves, turn.finished, turn.payoff]
    columns += [column for column in (turn.reward, turn.truncated) if column is not None]
    for column in columns:
        state.update(np.ascontiguousarray(column).tobytes())
    return state.intdigest()


def _described(game: Game) -> str:
    """Its seats, and what they see and do; those that are alike together."""
    alike: dict[str, list[str]] = {}
    for index, seat in enumerate(game.seats):
        own = game.spaces(index)
        sees = ", ".join(
            shown_space(space) if name == ALONE else f"{name} {shown_space(space)}"
            for name, space in own.observation.items()
        )
        alike.setdefault(f"see {sees} and act in {shown_space(own.action)}", []).append(seat)
    return "; ".join(f"seats {' '.join(seats)} {what}" for what, seats in alike.items())


def _complaints(name: str, rules: Mapping[str, object]) -> list[str]:
    """What PettingZoo's own test says of one of its environments; nothing here may rely on it."""
    if name != "pettingzoo":
        return []
    from pettingzoo.test import api_test  # type: ignore[import-untyped]

    from troupe.config import parse
    from troupe_actors.games.pettingzoo import Rules
    from troupe_actors.games.pettingzoo.making import make

    settings = parse(Rules, rules)
    env = make(settings.environment, settings.options)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            api_test(env, num_cycles=_API_CYCLES)
    except Exception as error:  # noqa: BLE001 - it raises whatever goes wrong
        return [f"though PettingZoo's api_test says: {told(error)}"]
    finally:
        env.close()
    return []
