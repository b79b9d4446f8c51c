"""What the command line asks of this side: judge a run, and sit down with it."""

import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.table import Table

from troupe.errors import UserError
from troupe.jobs.prepare import prepared_paths
from troupe.jobs.roles import title
from troupe.jobs.spec import Job
from troupe.plugins import find
from troupe.runs import RunFolder
from troupe_actors import agents, arena, chat, equilibrium, text_trials, trials
from troupe_actors.agents import policy
from troupe_actors.deals import generate, read
from troupe_actors.games import Game
from troupe_actors.play import find_seat, play

DEALS = 1000
EPISODES = 100


class Result(Protocol):
    """What judging has shown."""

    def data(self) -> dict[str, object]:
        """All of it as JSON can hold it."""
        ...

    def table(self) -> Table:
        """For a person at a terminal."""
        ...


def eval_command(
    run: Path,
    *,
    against: Sequence[str] | None = None,
    deals: int | None = None,
    deal_file: Path | None = None,
    episodes: int | None = None,
    prompts: Path | None = None,
    limit: int | None = None,
    temperature: float | None = None,
    checkpoint: str | None = None,
    seed: int = 0,
    as_json: bool = False,
) -> int:
    """Judge a run: a table for each opponent, environment or file of prompts, or one line of JSON.

    Raises:
        UserError: an opponent, the deals, the prompts or the checkpoint are not to be had, or what is
            asked for does not go with what the run is about.
    """
    torch.set_num_threads(1)
    job = prepared_paths(RunFolder(run).job(), run)
    alone, played = job.environment is not None, job.game is not None
    text = not (alone or played)
    for flag, given, fits in (
        ("--against", against is not None, played),
        ("--deals", deals is not None, played),
        ("--deal-file", deal_file is not None, played),
        ("--episodes", episodes is not None, alone),
        ("--prompts", prompts is not None, text),
        ("--limit", limit is not None, text),
        ("--temperature", temperature is not None, text),
    ):
        if given and not fits:
            raise UserError(f"{flag}: does not go with {title(job)}; leave it out")
    results: Iterable[Result]
    if text:
        said = text_trials.settings_of(job)
        trial = text_trials.asked_for(said, prompts, limit, temperature)
        results = [text_trials.evaluate_run(run, trial, checkpoint, seed)]
    elif alone:
        count = EPISODES if episodes is None else episodes
        results = [trials.evaluate_run(run, count, checkpoint, seed)]
    else:
        results = _matches(run, job, against, deals, deal_file, checkpoint, seed)
    if as_json:
        print(json.dumps([result.data() for result in results]))
        return 0
    for result in results:
        Console().print(result.table(), "", sep="\n")
    return 0


def _matches(
    run: Path,
    job: Job,
    against: Sequence[str] | None,
    deals: int | None,
    deal_file: Path | None,
    checkpoint: str | None,
    seed: int,
) -> Iterable[Result]:
    game = arena.game_of(job)
    opponents = job.evaluation.against if against is None else against
    for name in opponents:
        agents.check(name, job, "--against")
    count = DEALS if deals is None else deals
    dealt = read(game, deal_file) if deal_file else generate(game, count, seed)
    matches = (arena.evaluate_run(run, name, dealt, checkpoint, seed) for name in opponents)
    return chain(matches, _distance(run, job, game, checkpoint))


def _distance(run: Path, job: Job, game: Game, checkpoint: str | None) -> Iterator[Result]:
    """How far the run's policies are from an equilibrium, if that can be known."""
    yardstick = equilibrium.yardstick(job, game)
    if yardstick is not None:
        agent = policy.load(run, game, checkpoint=checkpoint)
        yield yardstick.measure(agent.name, agent.acting)


def playable(game: str) -> bool:
    """Whether a person can be shown a table of this game."""
    module = find("troupe_actors.games", game, "game.name").__name__
    return find_spec(f"{module}.render") is not None


def play_command(run: Path, seat: str, seed: int | None, checkpoint: str | None) -> int:
    """Seat a person at a table with a run's agents.

    Raises:
        UserError: there is no such seat or checkpoint, or nothing that a person plays.
    """
    torch.set_num_threads(1)
    job = RunFolder(run).job()
    if job.game is None:
        raise UserError(f"{run}: {title(job)} is no game; `troupe eval` judges its policy")
    game = arena.game_of(job)
    place = find_seat(game, seat)
    agent = policy.load(run, game, checkpoint=checkpoint)
    play(game, agent, place, secrets.randbits(32) if seed is None else seed, Console())
    return 0


def chat_command(
    run: Path,
    *,
    checkpoint: str | None,
    temperature: float,
    max_tokens: int,
    plain: bool,
) -> int:
    """Let a person talk to a run's language model.

    Raises:
        UserError: the run has none, or no such checkpoint, or nothing can be drawn in that way.
    """
    torch.set_num_threads(1)
    folder = RunFolder(run)
    speaker = chat.open_speaker(folder, checkpoint, temperature=temperature, max_tokens=max_tokens)
    console = Console(highlight=False)
    plain = plain or not speaker.folder.tokenizer.chat_template or not chat.chats(folder.job(), run)
    how = "it goes on where your line ends" if plain else "it remembers the conversation"
    console.print(f"[bold]{folder.name}[/]: {how}. Ctrl-C ends an answer, Ctrl-D the chat.\n")
    chat.talk(speaker, console, lambda: console.input("[bold green]> [/]"), plain=plain)
    return 0
