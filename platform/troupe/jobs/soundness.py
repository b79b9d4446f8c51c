"""Whether what is to be played is sound, seen before anything starts."""

import importlib
from collections.abc import Mapping

from troupe.jobs.spec import Job
from troupe.plugins import find, names

GAMES = "troupe_actors.games"
SECONDS = 5.0
"""That something is tried for at most."""
JOB_SECONDS = 1.0
"""The same before every run."""


def report(name: str, options: Mapping[str, object]) -> str:
    """One line on an environment, or on a game under rules, that says that it is sound.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    if name in names(GAMES):
        return _of_game(name, options, SECONDS, determined=True)
    return _of_environment(name, options, SECONDS, determined=True)


def look(job: Job) -> str:
    """The same of what a job plays, more quickly; only in lockstep need its seed determine it.

    Raises:
        UserError: one line that says what is wrong with it.
    """
    if job.text is not None:
        return str(importlib.import_module("troupe_actors.text_check").report(job))
    determined = job.schedule == "lockstep"
    if job.environment is not None:
        of = job.environment
        return _of_environment(of.name, of.options, JOB_SECONDS, determined=determined)
    assert job.game is not None
    return _of_game(job.game.name, job.game.rules, JOB_SECONDS, determined=determined)


def _of_environment(
    name: str, options: Mapping[str, object], seconds: float, *, determined: bool
) -> str:
    check = importlib.import_module("troupe_actors.environments.check")
    return str(check.report(name, options, seconds=seconds, determined=determined))


def _of_game(name: str, rules: Mapping[str, object], seconds: float, *, determined: bool) -> str:
    """A game's module may offer `report`; any other game is only loaded."""
    module = find(GAMES, name, "game.name")
    if hasattr(module, "report"):
        return str(module.report(rules, seconds=seconds, determined=determined))
    game = importlib.import_module(GAMES).load(name, rules)
    return f"{name}: {len(game.seats)} seats: {', '.join(game.seats)}"
