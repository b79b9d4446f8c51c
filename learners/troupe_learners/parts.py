"""What each rank of a learner has of its own: its place in its shard, its memory, its random streams.

The first rank saves the parts of all of them. They travel and are kept as tensors by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import safetensors.numpy

from troupe.checkpoint import Position
from troupe.episodes import Array, Columns
from troupe_learners.trainee import Trainee

_DOCUMENT = "document"
_RESUME = "resume/"
_MEMORY = "memory/"
_GENERATOR = "generator/"


@dataclass(frozen=True, slots=True)
class Part:
    """A rank's own, between two turns."""

    position: Position
    """In its shard."""
    consumed: int
    """Steps of its shard that were trained on or dropped."""
    resume: Mapping[int, bytes] = field(default_factory=dict)
    """In lockstep, by actor of its: what it needs to play the next turn."""
    random: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By policy: the state of the random stream in host memory."""
    generators: Mapping[str, Array] = field(default_factory=dict)
    """By policy: the state of the algorithm's random stream."""
    settings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By policy: what its algorithm has come to."""
    memories: Mapping[str, Columns] = field(default_factory=dict)
    """By policy: what its replay memory holds, if that is saved."""

    @classmethod
    def of(
        cls,
        trainees: Mapping[str, Trainee],
        position: Position,
        consumed: int,
        resume: Mapping[int, bytes],
        *,
        memories: bool,
    ) -> "Part":
        """How things stand with this rank."""
        held = {n: trainee.memory for n, trainee in trainees.items() if memories}
        return cls(
            position,
            consumed,
            resume,
            random={name: trainee.random_state() for name, trainee in trainees.items()},
            generators={name: trainee.generator_state() for name, trainee in trainees.items()},
            settings={name: trainee.settings_state() for name, trainee in trainees.items()},
            memories={n: memory.state() for n, memory in held.items() if memory is not None},
        )

    def restore(self, trainees: Mapping[str, Trainee]) -> None:
        """Give trainees that stand where the first rank stood what is this rank's.

        Raises:
            TroupeError: a memory was of another capacity, or kept no priorities.
        """
        for name, trainee in trainees.items():
            trainee.restore_own(self.random[name], self.generators[name], self.settings[name])
            if trainee.memory is not None and name in self.memories:
                trainee.memory.restore(self.memories[name])

    def columns(self) -> dict[str, Array]:
        """All of it as tensors."""
        document = {
            "position": self.position.model_dump(),
            "consumed": self.consumed,
            "random": self.random,
            "settings": self.settings,
        }
        held: dict[str, Array] = {_DOCUMENT: _bytes(json.dumps(document).encode())}
        held |= {f"{_RESUME}{slot}": _bytes(state) for slot, state in self.resume.items()}
        held |= {_GENERATOR + name: state for name, state in self.generators.items()}
        for policy, memory in self.memories.items():
            held |= {f"{_MEMORY}{policy}/{name}": column for name, column in memory.items()}
        return held

    @classmethod
    def from_columns(cls, columns: Columns) -> "Part":
        """What `columns` gave."""
        document = json.loads(columns[_DOCUMENT].tobytes())
        resume, generators = _below(columns, _RESUME), _below(columns, _GENERATOR)
        memories: dict[str, dict[str, Array]] = {}
        for name, column in _below(columns, _MEMORY).items():
            policy, _, name = name.partition("/")
            memories.setdefault(policy, {})[name] = column
        return cls(
            Position.model_validate(document["position"]),
            document["consumed"],
            {int(slot): state.tobytes() for slot, state in resume.items()},
            document["random"],
            generators,
            document["settings"],
            memories,
        )

    def to_bytes(self) -> bytes:
        """All of it, to be sent."""
        # `asarray` rather than `ascontiguousarray`, which gives a single value a dimension.
        columns = {name: np.asarray(held, order="C") for name, held in self.columns().items()}
        return safetensors.numpy.save(columns)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Part":
        """What `to_bytes` gave."""
        return cls.from_columns(safetensors.numpy.load(data))


def _bytes(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8)


def _below(columns: Columns, prefix: str) -> dict[str, Array]:
    return {n.removeprefix(prefix): c for n, c in columns.items() if n.startswith(prefix)}
