"""What the command line asks of this side: judge a run, and sit down with it."""

import json
import secrets
from pathlib import Path

import torch
from rich.console import Console

from troupe_actors import agents, arena
from troupe_actors.agents import policy
from troupe_actors.deals import generate, read
from troupe_actors.play import find_seat, play


def eval_command(
    run: Path,
    against: list[str],
    deals: int,
    deal_file: Path | None,
    checkpoint: str | None,
    seed: int,
    as_json: bool,
) -> int:
    """Judge a run against each opponent: a table for each, or one line of JSON for all.

    Raises:
        UserError: an opponent, the deals or the checkpoint are not to be had.
    """
    torch.set_num_threads(1)
    game = policy.game_of(run)
    for name in against:
        agents.check(name, game.name, "--against")
    dealt = read(game, deal_file) if deal_file else generate(game, deals, seed)
    results = []
    for name in against:
        result = arena.evaluate_run(run, name, dealt, checkpoint, seed)
        results.append(result.data())
        if not as_json:
            Console().print(result.table(), "", sep="\n")
    if as_json:
        print(json.dumps(results))
    return 0


def play_command(run: Path, seat: str, seed: int | None, checkpoint: str | None) -> int:
    """Seat a person at a table with a run's agents.

    Raises:
        UserError: there is no such seat or checkpoint.
    """
    torch.set_num_threads(1)
    game = policy.game_of(run)
    place = find_seat(game, seat)
    agent = policy.load(run, game, checkpoint=checkpoint)
    play(game, agent, place, secrets.randbits(32) if seed is None else seed, Console())
    return 0
