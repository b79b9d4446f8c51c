"""Environments of one agent: Gymnasium's by id, a user's own by dotted path, stepped many at a time."""

from troupe_actors.environments.faults import EnvironmentFaultError, Patience
from troupe_actors.environments.making import create, make
from troupe_actors.environments.serial import Environments
from troupe_actors.environments.transition import Driver, Seeds, Transition
from troupe_actors.environments.vectorised import Vectorised

__all__ = [
    "Driver",
    "EnvironmentFaultError",
    "Environments",
    "Patience",
    "Seeds",
    "Transition",
    "Vectorised",
    "create",
    "make",
]
