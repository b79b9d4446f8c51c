"""One look at a whole run: what the live view shows and `metrics.jsonl` and TensorBoard keep."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

NOTICEABLE = 0.05
"""Share of its time from which on a side is said to wait."""


@dataclass(frozen=True, slots=True)
class Learned:
    """How one policy learns. None is what nobody has told yet."""

    policy: str
    updates: int
    loss: float | None
    grad_norm: float | None
    value: float | None
    """Mean predicted value of the newest batch."""
    lag: int | None
    """Updates that the weights of the slowest actor are behind."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """All that its algorithm tells of the newest batch, by name."""

    @property
    def elo(self) -> float | None:
        """Its rating against the pool, where it has one; the run's first weights have 0."""
        return self.scalars.get("elo")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The newest evaluation against one opponent."""

    opponent: str
    wp: float
    """Share of games won."""
    wp_low: float
    wp_high: float
    """Ends of the 95 % confidence interval of `wp`."""
    adp: float | None
    """Average points per game."""


@dataclass(frozen=True, slots=True)
class Returns:
    """What episodes of an environment brought: undiscounted."""

    playing: float | None
    """Mean of the newest episodes of all actors, exploration included."""
    playing_length: float | None
    """Mean steps of those."""
    judged: float | None
    """Mean of the newest evaluation."""
    judged_low: float | None
    judged_high: float | None
    """Ends of the 95 % confidence interval of `judged`."""
    judged_length: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """A reward of completions, or one of its components, unweighted."""

    name: str
    """`reward` for the weighted sum, else the component's label."""
    sampled: float | None
    """Mean of the newest completions of all actors."""
    judged: float | None
    """Mean of the newest evaluation."""
    judged_low: float | None
    judged_high: float | None
    """Ends of the 95 % confidence interval of `judged`."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """How many prompts there are of each kind."""

    ready: int
    """To be given out in this epoch."""
    leased: int
    """In the hands of actors."""
    done: int
    """Answered, over all epochs."""
    dropped: int
    """Answered, and of no use to the learner."""
    dead: int
    """Put aside, since answering them failed."""


@dataclass(frozen=True, slots=True)
class Completions:
    """What completions of a language model brought. None is what nobody has told yet."""

    scores: tuple[Score, ...]
    """The reward, then its components."""
    length: float | None
    """Mean tokens of the newest completions."""
    truncated: float | None
    """Share of those that came to no end."""
    failed: float | None
    """Share of those that a reward failed on."""
    judged_length: float | None
    judged_truncated: float | None
    count: float
    per_second: float
    dropped_groups: int
    """Groups that actors dropped, since nothing can be learned from them."""
    prompts: Prompts | None


@dataclass(frozen=True, slots=True)
class Waits:
    """Share of their time, 0 to 1, that each side waits for the other."""

    actors: float
    learner: float

    def phrases(self) -> list[str]:
        """Who waits for whom, as a person would say it."""
        said = []
        if self.actors >= NOTICEABLE:
            said.append(f"actors for the learner {self.actors:.0%}")
        if self.learner >= NOTICEABLE:
            said.append(f"learner for actors {self.learner:.0%}")
        return said or ["nobody"]

    @property
    def noticeable(self) -> bool:
        """Whether a person should know of it."""
        return max(self.actors, self.learner) >= NOTICEABLE


@dataclass(frozen=True, slots=True)
class Frame:
    """A run at one moment. Rates are per second, over the last ten or so."""

    time: float
    """Unix time."""
    elapsed: float
    """Seconds since this start or resume."""
    attempt: int
    workers: int
    """Processes that report."""
    step: int
    """Steps trained on, over all attempts."""
    updates: int
    decisions: float
    decisions_per_second: float
    steps_per_second: float
    updates_per_second: float
    waits: Waits
    waiting_for: str
    """What a process that waited said last of the reason."""
    backlog: int
    """Steps that are made but not trained on."""
    capacity: int
    """Steps that may be in the backlog before actors wait; 0 where turns bound it."""
    staleness: float | None
    """Updates between the weights that made a step and those trained by it: mean of a batch."""
    staleness_max: float | None
    learned: tuple[Learned, ...]
    evaluations: tuple[Evaluation, ...]
    nash_conv: float | None
    """How far the newest evaluated policies are from an equilibrium, where that can be known."""
    returns: Returns | None
    """None where a game is played."""
    evaluated: int
    """Steps that the evaluated weights were trained on."""
    progress: float | None
    """0 to 1 of the way to the nearest stop limit; None where there is none."""
    seconds_left: float | None
    memory_mb: float
    restarts: int
    events: tuple[str, ...]
    """What happened since the frame before."""
    reported: Mapping[str, float]
    """`role/name`: counters summed over a role's processes, gauges averaged."""
    completions: Completions | None = None
    """Of a language model, where `decisions` are sampled tokens."""
    counters: frozenset[str] = frozenset()
    """The names in `reported` that only grow."""
    run: str = ""
    """The run's name."""

    @property
    def training(self) -> bool:
        """Whether the learner is there."""
        return "learner/steps_trained" in self.reported

    @property
    def played(self) -> str:
        """What `decisions` counts, for a person."""
        if self.completions is not None:
            return "tokens"
        return "decisions" if self.returns is None else "steps played"

    @property
    def queue_fill(self) -> float:
        """Backlog as a share of its capacity."""
        return self.backlog / self.capacity if self.capacity else 0.0

    def scalars(self) -> dict[str, float]:
        """All numbers by name: what was reported, and what follows from it."""
        return {**self.reported, **dict(self._derived())}

    def _derived(self) -> Iterator[tuple[str, float]]:
        yield "decisions", self.decisions
        yield "decisions_per_second", self.decisions_per_second
        yield "steps_per_second", self.steps_per_second
        yield "updates", self.updates
        yield "updates_per_second", self.updates_per_second
        yield "actors_blocked", self.waits.actors
        yield "learner_blocked", self.waits.learner
        yield "queue_fill", self.queue_fill
        yield "memory_mb", self.memory_mb
        yield "workers", self.workers
        yield "restarts", self.restarts
        if self.progress is not None:
            yield "progress", self.progress
        if self.seconds_left is not None:
            yield "seconds_left", self.seconds_left
        if self.completions is not None:
            yield "completions_per_second", self.completions.per_second
        if self.completions is not None and self.completions.prompts is not None:
            for name, count in asdict(self.completions.prompts).items():
                yield f"prompts_{name}", count
