"""Whether what is to be played is sound, seen before anything starts."""

import importlib
from collections.abc import Mapping

from troupe.jobs.roles import title
from troupe.jobs.spec import Job
from troupe.plugins import find, names

GAMES = "troupe_actors.games"
SECONDS = 1.0
"""That a job's environment is tried for, before every run."""


def report(name: str, options: Mapping[str, object]) -> str:
    """One line on an environment, or on a game under rules, that says that it is sound.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    if name in names(GAMES):
        return _report_game(name, options)
    check = importlib.import_module("troupe_actors.environments.check")
    return str(check.report(name, options))


def look(job: Job) -> str:
    """The same of what a job plays, more quickly.

    Only in lockstep has an environment to be determined by its seed.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    if job.environment is None:
        assert job.game is not None
        return _report_game(job.game.name, job.game.rules)
    check = importlib.import_module("troupe_actors.environments.check")
    determined = job.schedule == "lockstep"
    return str(
        check.report(title(job), job.environment.options, seconds=SECONDS, determined=determined)
    )


def _report_game(name: str, rules: Mapping[str, object]) -> str:
    """A game's module may offer `report(rules)`; any other is loaded."""
    module = find(GAMES, name, "game.name")
    if hasattr(module, "report"):
        return str(module.report(rules))
    game = importlib.import_module(GAMES).load(name, rules)
    return f"{name}: {len(game.seats)} seats: {', '.join(game.seats)}"
