"""A job: everything a run needs to know, typed, with its defaults."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from troupe.config import config

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


@config
class GameSettings:
    """Which game is played."""

    name: str
    """A file of `troupe_actors/games`, or a dotted path to a module of your own."""
    rules: Mapping[str, object] = Field(default_factory=dict)
    """Options of the game's own `Rules`."""


@config
class NetworkSettings:
    """The size of every policy's network."""

    hidden: Positive = 512
    """Width of the hidden layers."""
    layers: Positive = 5
    """How many hidden layers follow the input."""
    recurrent: Positive = 128
    """Width of the LSTM that reads the history."""


@config
class ActorSettings:
    """How experience is made."""

    count: Positive = 2
    """How many actors."""
    tables: Positive = 128
    """Games that one actor plays side by side."""
    epsilon: Fraction = 0.01
    """Share of decisions drawn uniformly among the legal moves, in the end."""
    epsilon_start: Fraction = 1.0
    """The same while a policy is untrained."""
    epsilon_decay: Annotated[int, Field(ge=0)] = 120
    """Updates of a policy over which its share falls, linearly, from start to end."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 where the processor multiplies it natively."""
    device: Device = "auto"
    """`auto` is the CPU: a game's batches are too small to feed a GPU from many actors."""
    block_steps: Positive = 800
    """Steps in a block before it is sent."""
    niceness: Annotated[int, Field(ge=0, le=19)] = 10
    """Scheduling priority below the learner's."""


@config
class LearnerSettings:
    """How experience becomes weights."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Mixed precision; `auto` is bf16 where the device multiplies it natively, else fp32."""
    device: Device = "auto"
    """`auto` is the first GPU, else the CPU."""
    threads: Positive = 1
    """CPU threads for tensor operations."""


@config
class StoreSettings:
    """The replay log between actors and learners."""

    url: str | None = None
    """A Redis-protocol server, `redis://host:port` or `rediss://`; none starts one for the run."""
    capacity: Positive = 16_000
    """Steps that may wait for the learner before actors wait too."""
    max_staleness: Annotated[int, Field(ge=0)] = 8
    """Blocks from weights older than this many updates are not taken."""
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    """Memory limit of a server started for the run; blocks may fill half of it."""


@config
class CheckpointSettings:
    """When the learner saves, and how much is kept."""

    every: Seconds = 60.0
    """Seconds between checkpoints."""
    keep: Positive = 3
    """How many checkpoints stay; older ones are deleted."""


@config
class EvaluationSettings:
    """How play is judged while it is learned."""

    every: Annotated[float, Field(ge=0)] = 30.0
    """Seconds between evaluations; 0 turns them off."""
    deals: Positive = 200
    """Deals per evaluation, each played in both seats."""
    against: tuple[str, ...] = ("random", "rule")
    """Opponents by name."""


@config
class StopSettings:
    """When the run is done: at whichever limit comes first; none runs until it is told to stop."""

    steps: Positive | None = None
    """Steps trained on."""
    updates: Positive | None = None
    """Updates over all policies."""
    minutes: Seconds | None = None
    """Minutes of training, start-up excluded, summed over resumes."""


@config
class Job:
    """One job file."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    game: GameSettings
    algorithm: Mapping[str, object]
    """`name` (a file of `troupe_learners`) and the options of that file's `Config`."""
    policies: Mapping[str, Name] = Field(default_factory=dict)
    """Which policy plays which seat; a seat left out has one of its own name."""
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    actors: ActorSettings = Field(default_factory=ActorSettings)
    learner: LearnerSettings = Field(default_factory=LearnerSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    stop: StopSettings = Field(default_factory=StopSettings)
