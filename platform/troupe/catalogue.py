"""What every number of a run means: its unit, and what Prometheus calls it.

The one table: help texts of the exporter come from it, and the tables of `docs/metrics.md` are
written by `python -m troupe.catalogue docs/metrics.md`. What has no row here is told all the same.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge"]

DERIVED = "derived"
"""Stands where a role would, for names without one."""
EVERY = "every role"
PREFIX = "troupe"
_PATH = "(?P<opponent>.+)"
"""An opponent may be another run, by its path."""


class Unit(NamedTuple):
    """How Prometheus counts what has a unit of ours."""

    suffix: str
    factor: float = 1.0


UNITS = {
    "s": Unit("seconds"),
    "bytes": Unit("bytes"),
    "MiB": Unit("bytes", 2.0**20),
    "0 to 1": Unit("ratio"),
}
"""Units with a place at the end of a name. Others, such as steps, are only in the help text."""


@dataclass(frozen=True)
class Row:
    """One name, or one pattern of names: `<policy>` stands for any policy, and becomes a label."""

    role: str
    name: str
    kind: Kind
    unit: str
    meaning: str
    alias: str = ""
    """What Prometheus calls it instead, before the unit."""

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches `role/name`, or a derived name."""
        role = {DERIVED: "", EVERY: r"(?P<role>\w+)/"}.get(self.role, f"{self.role}/")
        name = re.sub(r"<(\w+)>", r"(?P<\1>[^/]+)", self.name)
        return re.compile(role + name.replace("(?P<opponent>[^/]+)", _PATH))

    def exported(self, role: str, about: str = "<name>") -> str:
        """What Prometheus calls it; `about` is what stands where the row has `<name>`."""
        own = self.alias or self.name.removeprefix("eval/").replace("<name>", about)
        base = "_".join(
            part for part in own.split("/") if not part.startswith("<") or part == about
        )
        parts = [PREFIX, "" if role == DERIVED else role, base]
        unit = UNITS.get(self.unit)
        if unit is not None and not base.endswith(unit.suffix):
            parts.append(unit.suffix)
        return "_".join(filter(None, parts)) + ("_total" if self.kind == "counter" else "")


class Found(NamedTuple):
    """What the table says of one name."""

    row: Row
    exported: str
    labels: Mapping[str, str]


@lru_cache(maxsize=4096)
def find(name: str) -> Found | None:
    """The first row that fits a name such as `learner/loss/landlord`."""
    for row in ROWS:
        if match := row.pattern.fullmatch(name):
            labels = match.groupdict()
            role = labels.pop("role", row.role)
            return Found(row, row.exported(role, labels.pop("name", "")), labels)
    return None


def tables() -> Iterator[str]:
    """The table of each role, in Markdown."""
    for role in dict.fromkeys(row.role for row in ROWS):
        shown = "<role>" if role == EVERY else role
        lines = [f"| {role} | kind | unit | Prometheus | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{row.name}` | {row.kind} | {row.unit} | `{row.exported(shown)}` | {row.meaning} |"
            for row in ROWS
            if row.role == role
        ]
        yield "\n".join(lines)


def renewed(page: str) -> str:
    """A page with its tables as they should be; a table is known by its first column."""
    for table in tables():
        first = re.escape(table.partition(" kind ")[0])
        page = re.sub(rf"^{first} kind .*\n(\|.*\n)*", partial(_put, table), page, flags=re.M)
    return page


def _put(table: str, before: re.Match[str]) -> str:
    return f"{table}\n"


# fmt: off
_TABLES: Mapping[str, tuple[tuple[str, Kind, str, str] | tuple[str, Kind, str, str, str], ...]] = {
    DERIVED: (
        ("time", "gauge", "s", "Unix time of the look", "frame_timestamp"),
        ("step", "gauge", "steps", "steps trained on, over all attempts: the axis of every curve"),
        ("attempt", "gauge", "", "how often the run had been started or resumed"),
        ("decisions", "counter", "", "decisions made by all actors, over all attempts; of a language model, tokens sampled"),
        ("decisions_per_second", "gauge", "1/s", "decisions over the last ten seconds"),
        ("steps_per_second", "gauge", "1/s", "steps trained on, over the last ten seconds"),
        ("updates", "gauge", "", "updates over all policies"),
        ("updates_per_second", "gauge", "1/s", "updates over all policies, over the last ten seconds"),
        ("actors_blocked", "gauge", "0 to 1", "share of their time that actors wait for the learner, over the last ten seconds"),
        ("learner_blocked", "gauge", "0 to 1", "share of its time that the learner waits for actors, over the last ten seconds"),
        ("queue_fill", "gauge", "0 to 1", "`learner/backlog_steps` over `learner/capacity_steps`"),
        ("progress", "gauge", "0 to 1", "share of the way to the stop limit that will be met first"),
        ("seconds_left", "gauge", "s", "until that stop limit, at the mean speed of all training so far", "remaining"),
        ("memory_mb", "gauge", "MiB", "resident memory of all workers; pages they share count more than once", "resident_memory"),
        ("workers", "gauge", "", "workers heard of in the last ten seconds"),
        ("restarts", "counter", "", "workers that died and were started again in this attempt"),
        ("completions_per_second", "gauge", "1/s", "completions of a language model, over the last ten seconds"),
        ("prompts_ready", "gauge", "", "prompts to be given out in this epoch"),
        ("prompts_leased", "gauge", "", "prompts in actors' hands"),
        ("prompts_done", "gauge", "", "prompts answered"),
        ("prompts_dropped", "gauge", "", "prompts answered and of no use to the learner"),
        ("prompts_dead", "gauge", "", "prompts put aside"),
    ),
    "actor": (
        ("decisions", "counter", "", "decisions, forced ones included; in an environment, steps"),
        ("forced", "counter", "", "decisions with one legal move, made without the network"),
        ("episodes", "counter", "", "games or episodes played to their end"),
        ("return/<policy>", "gauge", "", "mean undiscounted return of its newest 100 episodes, exploration included"),
        ("length/<policy>", "gauge", "steps", "mean length of its newest 100 episodes"),
        ("env_restarts", "counter", "", "environments that failed and were made anew"),
        ("tokens", "counter", "", "of a language model: tokens sampled, stop tokens included"),
        ("completions", "counter", "", "of a language model: completions finished"),
        ("dropped_groups", "counter", "", "groups that nothing can be learned from, and that were not sent"),
        ("alike_groups", "counter", "", "groups that were sent although all their rewards are alike, as `text.refills` were spent"),
        ("lost_leases", "counter", "", "prompts that were given to somebody else before they were answered"),
        ("reward", "gauge", "", "mean reward of the newest completions, weighted as the job says; completions that a reward failed on are left out"),
        ("reward/<component>", "gauge", "", "mean of one reward over the newest completions, by its label, unweighted", "reward_component"),
        ("completion_length", "gauge", "tokens", "mean length of the newest completions, stop token included"),
        ("truncated", "gauge", "0 to 1", "share of the newest completions that were cut at the most tokens"),
        ("reward_failed", "gauge", "0 to 1", "share of the newest completions that a reward failed on"),
        ("steps", "counter", "steps", "steps sent to the store"),
        ("blocks", "counter", "", "blocks sent to the store"),
        ("stale_blocks", "counter", "", "blocks refused because their weights were too old"),
        ("blocked_seconds", "counter", "s", "time spent waiting for room in the store"),
        ("weight_updates", "counter", "", "times that newer weights were taken over"),
        ("weight_misses", "counter", "", "times that weights could not be had, and the older ones played on"),
        ("version/<policy>", "gauge", "updates", "version of the weights that act"),
    ),
    "learner": (
        ("steps_trained", "gauge", "steps", "steps trained on; kept in checkpoints, so it goes on after a resume"),
        ("updates", "gauge", "", "updates over all policies; kept in checkpoints"),
        ("updates/<policy>", "gauge", "", "updates of a policy, the version of its weights; kept in checkpoints", "policy_updates"),
        ("training_seconds", "gauge", "s", "time spent training, start-up excluded; kept in checkpoints"),
        ("loss/<policy>", "gauge", "", "loss of the newest batch; `<group>_loss/<policy>` where groups of parameters have losses of their own"),
        ("grad_norm/<policy>", "gauge", "", "norm of the gradient of the newest batch, before clipping; `<group>_grad_norm/<policy>` likewise"),
        ("reward/<policy>", "gauge", "", "of text: mean reward of the completions in the newest batch"),
        ("reward/<component>/<policy>", "gauge", "", "of text: mean of one reward over the newest batch, by its label, unweighted", "reward_component"),
        ("completion_length/<policy>", "gauge", "tokens", "of text: mean length of the completions in the newest batch"),
        ("truncated/<policy>", "gauge", "0 to 1", "of text: share of the newest batch that was cut at the most tokens"),
        ("zero_variance/<policy>", "gauge", "0 to 1", "of text: share of groups whose rewards are all equal, which teach nothing where rewards are compared within a group"),
        ("entropy/<policy>", "gauge", "nats", "entropy of the policy, mean over the newest batch"),
        ("approx_kl/<policy>", "gauge", "nats", "estimated KL, k3, of the policy to what its ratio is measured from, a step"),
        ("clip_fraction/<policy>", "gauge", "0 to 1", "share of steps whose ratio lies outside the clip", "clipped"),
        ("rejected/<policy>", "gauge", "0 to 1", "share of tokens whose correction for stale weights is 0"),
        ("kl/<policy>", "gauge", "nats", "of text: estimated KL, k3, to the reference, a token"),
        ("log_prob_gap/<policy>", "gauge", "nats", "of text: mean absolute difference between the trainer's and the sampler's log-probability of a token as a batch begins; with fresh weights it is rounding"),
        ("elo/<policy>", "gauge", "Elo", "rating of its present span against the pool; where that has just begun, of the one before"),
        ("elo_low/<policy>", "gauge", "Elo", "lower end of the rating's 95 % interval"),
        ("elo_high/<policy>", "gauge", "Elo", "upper end of the rating's 95 % interval"),
        ("pool_win_rate/<policy>", "gauge", "0 to 1", "against all members of the pool, in the present span", "pool_win"),
        ("<name>/<policy>", "gauge", "", "what the algorithm itself tells of the newest batch, such as `value`: see its page"),
        ("pool", "gauge", "", "members of the pool of opponents"),
        ("pin_misses", "counter", "", "weights that were replaced before they could be pinned; newer ones join the pool instead"),
        ("staleness", "gauge", "updates", "versions between the weights that made a step and those it trained: mean of the newest batch"),
        ("staleness_max", "gauge", "updates", "versions between the weights that made a step and those it trained: most of the newest batch"),
        ("backlog_steps", "gauge", "steps", "steps made but not trained on"),
        ("capacity_steps", "gauge", "steps", "backlog at which actors wait; in lockstep, turns are what they wait for"),
        ("blocked_seconds", "counter", "s", "time spent waiting for steps"),
        ("stale_steps", "counter", "steps", "steps dropped because they became too old while they waited"),
        ("damaged_blocks", "gauge", "blocks", "blocks taken from the store and found damaged; skipped"),
        ("checkpoints", "counter", "", "checkpoints written"),
        ("checkpoint_failures", "counter", "", "checkpoints that could not be written"),
        ("checkpoint_step", "gauge", "steps", "steps that the newest checkpoint had trained on"),
        ("checkpoint_seconds", "gauge", "s", "time that the newest checkpoint took"),
        ("publish_retries", "counter", "", "weights sent again because the weight server was away"),
        ("republished", "counter", "", "versions made again after a learner's death, which actors have already"),
    ),
    "evaluator": (
        ("eval/step", "gauge", "steps", "steps that the judged weights were trained on"),
        ("eval/<opponent>/wp", "gauge", "0 to 1", "share of games won, every deal played in both seats"),
        ("eval/<opponent>/wp_low", "gauge", "0 to 1", "lower end of the 95 % confidence interval of `wp`, clustered by deal"),
        ("eval/<opponent>/wp_high", "gauge", "0 to 1", "upper end of the 95 % confidence interval of `wp`, clustered by deal"),
        ("eval/<opponent>/adp", "gauge", "points", "average points a game"),
        ("eval/nash_conv", "gauge", "points", "distance from an equilibrium, in small games"),
        ("eval/return", "gauge", "", "mean return of an environment's episodes"),
        ("eval/return_low", "gauge", "", "lower end of the 95 % confidence interval of the return"),
        ("eval/return_high", "gauge", "", "upper end of the 95 % confidence interval of the return"),
        ("eval/length", "gauge", "steps", "mean length of an environment's episodes"),
        ("eval/reward", "gauge", "", "mean reward over the held-out prompts, one completion of each"),
        ("eval/reward_low", "gauge", "", "lower end of the 95 % confidence interval of the reward"),
        ("eval/reward_high", "gauge", "", "upper end of the 95 % confidence interval of the reward"),
        ("eval/reward/<component>_low", "gauge", "", "lower end of the 95 % confidence interval of one reward's mean", "reward_component_low"),
        ("eval/reward/<component>_high", "gauge", "", "upper end of the 95 % confidence interval of one reward's mean", "reward_component_high"),
        ("eval/reward/<component>", "gauge", "", "mean of one reward over the held-out prompts, by its label, unweighted", "reward_component"),
        ("eval/completion_length", "gauge", "tokens", "mean length of the judged completions"),
        ("eval/truncated", "gauge", "0 to 1", "share of the judged completions that were cut at the most tokens"),
        ("eval/reward_failed", "gauge", "0 to 1", "share of the judged completions that a reward failed on"),
        ("evaluations", "counter", "", "evaluations finished"),
        ("version/<policy>", "gauge", "updates", "version of the weights that are judged"),
        ("weight_misses", "counter", "", "times that weights could not be had"),
    ),
    "weights": (
        ("bytes_sent", "counter", "bytes", "weights sent to workers", "sent"),
        ("watchers", "gauge", "", "workers that wait for newer weights"),
    ),
    EVERY: (
        ("rss_mb", "gauge", "MiB", "resident memory of the process", "resident_memory"),
        ("cpu_seconds", "gauge", "s", "processor time of the process since it started"),
        ("outages", "counter", "", "snapshots that could not be put up because the store did not answer"),
    ),
}
# fmt: on

ROWS = tuple(Row(role, *row) for role, rows in _TABLES.items() for row in rows)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
