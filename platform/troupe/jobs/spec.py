"""A job: everything a run needs to know, typed, with its defaults."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from troupe.config import config
from troupe.language.settings import EngineSettings, LanguageSettings
from troupe.prompts import PromptSettings

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
class EnvironmentSettings:
    """Which environment of one agent is acted in."""

    name: str
    """A Gymnasium id, or `package.module:Class` of your own."""
    options: Mapping[str, object] = Field(default_factory=dict)
    """What it is made with; `max_episode_steps` as `gymnasium.make` has it."""


@config
class NetworkSettings:
    """Every policy's network. What a job leaves out is what its algorithm says."""

    kind: str = "action_value"
    """A file of `troupe.policies`, or a dotted path to a module of your own."""
    hidden: Positive = 512
    """Width of the hidden layers."""
    layers: Annotated[int, Field(ge=0)] = 5
    """How many hidden layers follow the input."""
    recurrent: Annotated[int, Field(ge=0)] = 128
    """Width of the LSTM; 0 is none."""
    activation: Literal["relu", "tanh"] = "relu"
    """Between hidden layers."""
    shared: bool = False
    """Policy and critic have their hidden layers in common."""
    normalise_observation: bool = False
    """Observations enter the network with running mean 0 and deviation 1; part of the weights."""
    normalise_reward: bool = False
    """Rewards are divided by the running deviation of the return; part of the weights."""
    critics: Annotated[int, Field(ge=1, le=2)] = 1
    """Of a deterministic policy; set by the algorithm."""
    duelling: bool = False
    """Of a network of action values; set by the algorithm."""
    language: LanguageSettings | None = None
    """Of the kind `language`: which model, and how it learns."""


@config
class ActorSettings:
    """How experience is made. What a job leaves out of exploration is what its algorithm says."""

    count: Positive = 2
    """How many actors."""
    tables: Positive = 128
    """Games that one actor plays side by side."""
    environments: Positive = 4
    """Environments that one actor steps side by side."""
    rollout: Positive = 128
    """Steps in every environment before they are sent; in lockstep, of a turn."""
    games: Positive = 1
    """In lockstep, games that every table plays in a turn."""
    exploration: Annotated[float, Field(ge=0)] = 0.01
    """In the end: the share of random decisions, or the noise as a share of the action's range."""
    exploration_start: Annotated[float, Field(ge=0)] = 1.0
    """The same while a policy is untrained."""
    exploration_decay: Annotated[int, Field(ge=0)] = 120
    """Versions of a policy over which it moves, linearly, from start to end."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 for action values where the processor multiplies it natively, else fp32."""
    device: Device = "auto"
    """`auto` is the CPU: a game's batches are too small to feed a GPU from many actors."""
    block_steps: Positive = 800
    """Steps of whole games in a block before it is sent."""
    colocated: bool = False
    """In lockstep: they play in the learner's own process, one after the other, or with a `lag` in
    processes beside it; the same to the bit, and faster where a turn takes milliseconds."""
    niceness: Annotated[int, Field(ge=0, le=19)] = 10
    """Scheduling priority below the learner's."""


@config
class LearnerSettings:
    """How experience becomes weights."""

    count: Positive = 1
    """Ranks: learners that share every update."""
    sharding: Literal["none", "full"] = "none"
    """Of a language model: every rank has all of it, or full: a share of every weight, of its gradient
    and of the optimizer's state, so that a model may be larger than a GPU."""
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
    capacity: Annotated[int, Field(ge=0)] = 0
    """Steps that may wait for the learner before actors wait too; 0 is what the job needs."""
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
    """Deals of a game per evaluation, each played in both seats."""
    episodes: Positive = 20
    """Episodes of an environment per evaluation."""
    exploration: Annotated[float, Field(ge=0)] = 0.0
    """As for actors: 0 does what seems best; above 0 a stochastic policy draws, as it learned to. Of
    text, the temperature."""
    prompts: PromptSettings | None = None
    """Of text: what is asked, once each; prompts that are not trained on."""
    against: tuple[str, ...] = ()
    """Opponents by name; a job that leaves this out has those that its game has."""


@config
class PrepareSettings:
    """What is made in the run's folder, once, before anything else starts."""

    name: str
    """A file of `troupe_learners/tasks`, or a dotted path to a module of your own."""
    options: Mapping[str, object] = Field(default_factory=dict)
    """Options of the task's own `Options`."""


@config
class RewardSettings:
    """One component of what a completion is worth."""

    name: str
    """A file of `troupe_actors/rewards`, or `package.module:function` of your own."""
    weight: float = 1.0
    """What it is multiplied by in the sum; at 0 it is only shown."""
    options: Mapping[str, object] = Field(default_factory=dict)
    """Its own options; of a function, what it is called with besides the samples."""
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$")] = ""
    """What it is called in metrics and tables; empty is the last part of its name."""
    timeout: Seconds = 10.0
    """For one call, with one group."""
    whole_groups: bool = False
    """It compares the samples of a group: a call that fails costs all of them."""
    max_failed: Fraction = 0.1
    """Of the newest thousand samples, the share that it may fail on before the job ends."""


@config
class TextSettings:
    """Which prompts a language model answers, how, and what its answers are worth."""

    prompts: PromptSettings
    rewards: tuple[RewardSettings, ...] = ()
    """Their weighted sum is the reward of a completion; none where answers are only imitated (sft)."""
    groups: Positive = 16
    """Prompts whose completions are learned from together, over all actors."""
    completions: Positive = 8
    """To each prompt: its group."""
    max_tokens: Positive = 256
    """Of a completion; one that comes to so many is cut."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """What logits are divided by; the learner divides by it too."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """1 to learn from, as the learner reckons with the whole distribution."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """0 to learn from, likewise."""
    drop_alike: bool = False
    """Groups whose completions all have one reward are left out, and others sampled in their place
    (DAPO's dynamic sampling)."""
    refills: Positive = 3
    """Of those: most prompts more for each group of a batch; once they are spent, what is alike is
    kept until the batch is full."""
    engine: EngineSettings = Field(default_factory=EngineSettings)


@config
class OpponentSettings:
    """Of a game: a pool of earlier weights, and of other runs', that policies also play against."""

    share: Fraction = 0.2
    """Of the tables at which one policy plays against a member of the pool."""
    every: Positive = 50
    """Versions of a policy after which its weights join the pool."""
    keep: Positive = 20
    """How many of those stay in it, the newest."""
    sampling: Literal["pfsp", "newest", "uniform"] = "pfsp"
    """Who is met: by how often they win, rather the newest, or everybody alike."""
    weighting: Literal["hard", "even"] = "hard"
    """Of pfsp: those that win more than the policy, or those that are a match for it."""
    named: tuple[str, ...] = ()
    """Other runs of the same game and network, or checkpoints of theirs; they stay for good."""
    at_once: Positive = 4
    """Opponents that one actor plays against side by side."""


@config
class PlaceSettings:
    """What a worker asks of a node of a Ray cluster."""

    cpus: Annotated[float, Field(ge=0)] = 1.0
    """CPUs, as Ray counts them."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs, or a share of one; none is one where the role's `device` is a GPU, else 0."""
    resources: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Resources of the cluster's own, by name, such as those of a node group."""


@config
class ClusterSettings:
    """Of a run on a Ray cluster; a run on one machine has no use for it."""

    actor: PlaceSettings = Field(default_factory=PlaceSettings)
    """Also of the evaluator."""
    learner: PlaceSettings = Field(default_factory=PlaceSettings)
    """Of each rank."""
    autoscaled: bool = False
    """Nodes come when they are asked for: a worker that no node has room for waits."""
    grace: Seconds = 60.0
    """Seconds that the learner may take to save when the run is told to stop."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a run that failed goes on from its newest checkpoint by itself."""


@config
class StopSettings:
    """When the run is done: at whichever limit comes first; none runs until it is told to stop."""

    steps: Positive | None = None
    """Steps trained on; with replay, steps taken into it."""
    updates: Positive | None = None
    """Updates over all policies; one is all that is done with one batch, or a replay's turn."""
    minutes: Seconds | None = None
    """Minutes of training, start-up excluded, summed over resumes."""


@config
class Job:
    """One job file."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    game: GameSettings | None = None
    """What is played: this, `environment` or `text`."""
    environment: EnvironmentSettings | None = None
    text: TextSettings | None = None
    prepare: PrepareSettings | None = None
    """What the job makes for itself first; paths that begin with `prepared/` lead there."""
    algorithm: Mapping[str, object]
    """`name` (a file of `troupe_learners`) and the options of that file's `Config`."""
    policies: Mapping[str, Name] = Field(default_factory=dict)
    """Which policy plays which seat; a seat left out has one of its own name."""
    schedule: Literal["async", "lockstep"] = "async"
    """lockstep: playing and learning take turns, and a run can be repeated bit for bit on a CPU."""
    lag: Annotated[int, Field(ge=0, le=8)] = 0
    """In lockstep, turn v is played with version v - lag, so that playing and learning overlap."""
    network: NetworkSettings = Field(default_factory=NetworkSettings)
    actors: ActorSettings = Field(default_factory=ActorSettings)
    learner: LearnerSettings = Field(default_factory=LearnerSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    opponents: OpponentSettings | None = None
    """None plays every game among the newest weights alone."""
    stop: StopSettings = Field(default_factory=StopSettings)
    cluster: ClusterSettings = Field(default_factory=ClusterSettings)
