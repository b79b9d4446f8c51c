"""How a run stands against its league: what `troupe league` prints."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.console import Console, RenderableType
from rich.table import Table

from troupe import checkpoint
from troupe.checkpoint import Checkpoint
from troupe.errors import UserError
from troupe.jobs.spec import Job
from troupe.league import named
from troupe.league.payoffs import Entry, Record
from troupe.league.ratings import Rating
from troupe.league.state import League
from troupe.runs import RunFolder


@dataclass(frozen=True, slots=True)
class Row:
    """A member of the pool, as a policy met it; or, with games against all, the policy itself."""

    name: str
    elo: float | None
    """None where it cannot be compared with the others."""
    elo_low: float | None
    elo_high: float | None
    games: float
    wins: float
    draws: float
    losses: float
    mean_payoff: float
    win_rate: float
    """Of the policy, lately: games count less the older they are."""
    probability: float | None
    """That this member is the next that is met; of the policy itself none."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One policy's."""

    policy: str
    rows: tuple[Row, ...]
    """Itself, then the members, the oldest first."""
    payoffs: tuple[Entry, ...]
    """The payoff table: by span of versions, and member."""


@dataclass(frozen=True, slots=True)
class Standings:
    """A run's."""

    step: int
    policies: tuple[Standing, ...]


def read(state: Checkpoint, job: Job) -> Standings:
    """How the policies stood when a checkpoint was saved.

    Raises:
        UserError: the run has no league, or none yet.
    """
    if job.opponents is None or "league" not in state.documents:
        raise UserError("opponents: this run has no pool; give its job `opponents: {}`")
    league = League(job.opponents, tuple(state.updates), named.members(job))
    league.restore(state.documents["league"])
    standings = tuple(
        Standing(policy, tuple(_rows(league, policy)), league.payoffs(policy))
        for policy in league.policies
    )
    return Standings(state.step, standings)


def show(run: RunFolder, name: str | None, *, as_json: bool) -> int:
    """Print how a run stood in its newest checkpoint, or the one named.

    Raises:
        UserError: it has no league, or there is no such checkpoint.
        CheckpointError: there is none at all, or it is not sound.
    """
    standings = read(checkpoint.load(run.saved(name)), run.job())
    if as_json:
        print(json.dumps(asdict(standings)))
        return 0
    for standing in standings.policies:
        Console().print(_table(standing, standings.step), "", sep="\n")
    return 0


def _rows(league: League, policy: str) -> Iterator[Row]:
    ratings, odds = league.ratings(policy), league.pool(0).odds.get(policy, ())
    present = league.total(policy)
    yield _row(policy, ratings.get(league.span), present, present.win_rate(0.0), None)
    for member, probability in zip(league.members, odds, strict=True):
        lately = league.recent(policy, member.name).win_rate()
        total = league.total(policy, member.name)
        yield _row(member.name, ratings.get(member.name), total, lately, probability)


def _row(
    name: str, rating: Rating | None, record: Record, win_rate: float, probability: float | None
) -> Row:
    elo, low, high = (None, None, None) if rating is None else rating
    return Row(
        name=name,
        elo=elo,
        elo_low=low,
        elo_high=high,
        games=record.games,
        wins=record.wins,
        draws=record.draws,
        losses=record.losses,
        mean_payoff=record.mean_payoff,
        win_rate=win_rate,
        probability=probability,
    )


def _table(standing: Standing, step: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    table.title = f"{standing.policy} against its pool, after {step:,} steps"
    for name in (
        "",
        "Elo",
        "95 %",
        "games",
        "won",
        "drawn",
        "lost",
        "mean payoff",
        "win rate",
        "p",
    ):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in standing.rows:
        rated = row.elo is not None and row.elo_high is not None
        table.add_row(
            row.name,
            f"{row.elo:+.0f}" if rated else "",
            f"± {row.elo_high - row.elo:.0f}" if rated else "",  # type: ignore[operator]
            *(f"{count:,.0f}" for count in (row.games, row.wins, row.draws, row.losses)),
            f"{row.mean_payoff:+.3f}",
            f"{row.win_rate:.3f}",
            "" if row.probability is None else f"{row.probability:.3f}",
        )
    return table
