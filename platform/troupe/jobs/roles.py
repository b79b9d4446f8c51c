"""Which policies a job has, and what each of them sees and does."""

import importlib
from typing import Protocol

from troupe.errors import UserError
from troupe.jobs.spec import Job
from troupe.policies import Spaces


class _Game(Protocol):
    seats: tuple[str, ...]

    def spaces(self, seat: int) -> Spaces: ...


def policies_of(job: Job) -> dict[str, Spaces]:
    """By policy, in the order of the game's seats: the spaces of the seats that it plays.

    Raises:
        UserError: one policy is to play seats that see or do different things.
    """
    game: _Game = importlib.import_module("troupe_actors.games").load(job.game.name, job.game.rules)
    held: dict[str, Spaces] = {}
    for index, seat in enumerate(game.seats):
        policy = job.policies.get(seat, seat)
        spaces = game.spaces(index)
        if held.setdefault(policy, spaces) != spaces:
            raise UserError(
                f"policies.{seat}: {policy!r} plays another seat too, which sees or does other "
                "things; give this seat a policy of its own"
            )
    return held
