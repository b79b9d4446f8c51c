"""Environments of one agent: Gymnasium's by id, a user's own by dotted path, stepped many at a time."""

from troupe_actors.environments.faults import EnvironmentFaultError, Patience, RepeatError
from troupe_actors.environments.making import create, make
from troupe_actors.environments.serial import Environments
from troupe_actors.environments.transition import Driver, Past, Seeds, Transition, nothing_done
from troupe_actors.environments.vectorised import Vectorised

__all__ = [
    "Driver",
    "EnvironmentFaultError",
    "Environments",
    "Past",
    "Patience",
    "RepeatError",
    "Seeds",
    "Transition",
    "Vectorised",
    "create",
    "make",
    "nothing_done",
]
