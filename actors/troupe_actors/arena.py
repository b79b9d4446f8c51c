"""Judging play: every deal is played twice, with the two agents on either side, many tables at once.

A game's sides are its first seat and all others, unless the game says otherwise (`sides`).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from troupe import seeding
from troupe.jobs.spec import Job
from troupe.runs import RunFolder
from troupe_actors import agents, deals, games
from troupe_actors.agents import Agent
from troupe_actors.deals import Deals
from troupe_actors.games import Game, Turn
from troupe_actors.statistics import Interval, Values, correlation, mean_interval, share_interval

DEALS_AT_ONCE = 256
"""Deals played side by side, on twice as many tables: enough to fill a network's batches."""

Payoff = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Score:
    """How an agent did, with 95 % confidence intervals clustered by deal."""

    wp: Interval
    """Share of games won."""
    adp: Interval
    """Mean payoff of a seat."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a match has shown, from the view of `agent`."""

    agent: str
    against: str
    deals: int
    source: str
    """Where the deals come from."""
    hash: str
    """SHA-256 of the deals."""
    overall: Score
    sides: Mapping[str, Score]
    """As each side, by the side's seats."""
    seat_correlation: float
    """Between the two plays of a deal; NaN where one of them always went the same way."""
    remarks: Mapping[str, int]
    """What the agents want known, with counts."""
    seconds: float

    def data(self) -> dict[str, object]:
        """All of it as JSON can hold it."""
        return {
            "agent": self.agent,
            "against": self.against,
            "deals": self.deals,
            "source": self.source,
            "sha256": self.hash,
            "overall": _score_data(self.overall),
            "sides": {side: _score_data(score) for side, score in self.sides.items()},
            "seat_correlation": _number(self.seat_correlation),
            "remarks": dict(self.remarks),
            "seconds": round(self.seconds, 3),
        }

    def table(self) -> Table:
        """For a person at a terminal."""
        table = Table(
            title=f"{self.agent} against {self.against}",
            title_justify="left",
            title_style="bold",
            caption=self._caption(),
            caption_justify="left",
            box=box.SIMPLE,
            pad_edge=False,
        )
        for heading in ("", "WP", "95 %", "ADP", "95 %"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for side, score in (("overall", self.overall), *self.sides.items()):
            table.add_row(side, *_cells(score.wp, ".3f"), *_cells(score.adp, "+.2f"))
        return table

    def _caption(self) -> str:
        alike = self.seat_correlation
        lines = [
            f"{self.deals:,} deals, each played in both seats, {self.seconds:.0f} s",
            f"seat correlation {alike:+.2f}" if np.isfinite(alike) else "seat correlation: none",
            f"deals: {self.source}, sha256 {self.hash[:16]}",
            *(f"{what}: {count:,}" for what, count in self.remarks.items()),
        ]
        return "\n".join(lines)


def evaluate_run(
    run_folder: Path,
    against: str,
    dealt: Deals | int = 1000,
    checkpoint: str | None = None,
    seed: int = 0,
) -> Result:
    """Judge a run's newest (or named) checkpoint against an agent or another run.

    `dealt` is the deals to play, or how many of the validation deals of `seed`.

    Raises:
        UserError: there is no such checkpoint, agent or run.
    """
    from troupe_actors.agents import policy  # imports torch

    game = game_of(RunFolder(run_folder).job())
    opponent = agents.load(against, game)
    agent = policy.load(run_folder, game, checkpoint=checkpoint)
    known = dealt if isinstance(dealt, Deals) else deals.generate(game, dealt, seed)
    result = judge(game, known, agent, opponent, seed)
    assert result is not None
    return result


def game_of(job: Job) -> Game:
    """The game of a job, under its rules.

    Raises:
        UserError: it is not here.
    """
    assert job.game is not None
    return games.load(job.game.name, job.game.rules)


def judge(
    game: Game,
    dealt: Deals,
    agent: Agent,
    opponent: Agent,
    seed: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Result | None:
    """Play every deal in both seats and count; None where `stopped` said so between two moves."""
    start = time.perf_counter()
    before = _remarks(agent, opponent)
    parts = []
    for first in range(0, len(dealt.hands), DEALS_AT_ONCE):
        hands = dealt.hands[first : first + DEALS_AT_ONCE]
        random = seeding.stream(seed, "arena", first)
        payoff = play_deals(game, hands, (agent, opponent), random, stopped)
        if payoff is None:
            return None
        parts.append(payoff)
    remarks = {what: n - before.get(what, 0) for what, n in _remarks(agent, opponent).items()}
    return _result(
        game,
        dealt,
        (agent.name, opponent.name),
        np.concatenate(parts),
        remarks,
        time.perf_counter() - start,
    )


def play_deals(
    game: Game,
    hands: deals.Hands,
    pair: tuple[Agent, Agent],
    random: np.random.Generator,
    stopped: Callable[[], bool] = lambda: False,
) -> Payoff | None:
    """Play each deal twice: first with `pair[0]` on the game's first side, then on the others.

    Returns:
        [D, 2, seats]: what each seat won; None where `stopped` said so.
    """
    count = len(hands)
    owner = _owners(game)[np.repeat([0, 1], count)]
    tables = deals.tables(game, 2 * count)
    payoff = np.zeros((2 * count, len(game.seats)), np.float32)
    turn = tables.deal(np.concatenate([hands, hands]))
    _pay(payoff, turn)
    while not tables.done.all():
        if stopped():
            return None
        turn = tables.play(_choose(turn, owner, ~tables.done, pair, random))
        _pay(payoff, turn)
    return payoff.reshape(2, count, -1).swapaxes(0, 1)


def _pay(payoff: Payoff, turn: Turn) -> None:
    """Add what a call has brought to [T, seats]."""
    if turn.reward is not None:
        payoff += turn.reward
    payoff[turn.finished] += turn.payoff


def sides_of(game: Game) -> tuple[tuple[str, ...], ...]:
    """The two sides of a game, each some of its seats."""
    sides: tuple[tuple[str, ...], ...] = getattr(game, "sides", (game.seats[:1], game.seats[1:]))
    return sides


def _owners(game: Game) -> NDArray[np.int64]:
    """[2, seats]: which agent of the pair plays each seat, first one way, then the other."""
    first = sides_of(game)[0]
    one_way = np.array([0 if seat in first else 1 for seat in game.seats])
    return np.stack([one_way, 1 - one_way])


def _remarks(*pair: Agent) -> dict[str, int]:
    return {f"{agent.name}: {what}": n for agent in pair for what, n in agent.remarks().items()}


def _choose(
    turn: Turn,
    owner: NDArray[np.int64],
    playing: NDArray[np.bool_],
    pair: tuple[Agent, Agent],
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """[T]: each agent's choices on the tables where it is to move."""
    choice = np.zeros(len(turn.seat), np.int64)
    mover = owner[np.arange(len(turn.seat)), turn.seat]
    for who, agent in enumerate(pair):
        tables = np.flatnonzero(playing & (mover == who))
        if tables.size:
            choice[tables] = agent.act(agents.select(turn, tables), random)
    return choice


def _result(
    game: Game,
    dealt: Deals,
    names: tuple[str, str],
    payoff: Payoff,
    remarks: Mapping[str, int],
    seconds: float,
) -> Result:
    """Count from the view of the first agent, which was on side i in the plays `payoff[:, i]`."""
    sides = sides_of(game)
    seats = [[game.seats.index(seat) for seat in side] for side in sides]
    points = [payoff[:, i, seats[i]].mean(axis=1, dtype=np.float64) for i in range(2)]
    wins = [(np.sign(series) + 1) / 2 for series in points]
    return Result(
        agent=names[0],
        against=names[1],
        deals=len(payoff),
        source=dealt.source,
        hash=dealt.hash,
        overall=_score((wins[0] + wins[1]) / 2, (points[0] + points[1]) / 2),
        sides={" + ".join(side): _score(wins[i], points[i]) for i, side in enumerate(sides)},
        seat_correlation=correlation(wins[0], wins[1]),
        remarks={what: count for what, count in remarks.items() if count},
        seconds=seconds,
    )


def _score(wins: Values, points: Values) -> Score:
    return Score(wp=share_interval(wins), adp=mean_interval(points))


def _score_data(score: Score) -> dict[str, object]:
    return {
        name: {key: _number(value) for key, value in interval._asdict().items()}
        for name, interval in (("wp", score.wp), ("adp", score.adp))
    }


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if np.isfinite(value) else None


def _cells(interval: Interval, spec: str) -> tuple[str, str]:
    return f"{interval.mean:{spec}}", f"{interval.low:{spec}} to {interval.high:{spec}}"
