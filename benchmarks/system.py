"""The whole run (Ray, store, gRPC, learner) against the same loop without any transport.

Both play and learn Dou Dizhu as `examples/doudizhu.yaml` says, on the same cores: the run as
`troupe train` starts it, the loop in one process with two torch threads that plays until a policy
has a full batch, trains on it, and hands the new weights over in memory. Start-up is left out.
The learning rate is next to nothing on both sides: policies that learn come to play other games,
shorter ones and with more forced moves, and not at the same time on both.
Counted are steps trained on by the learner, and decisions of all actors, between two lines of the
run's journal. Medians of alternating runs. The policy lag is the mean over a batch, in updates.
Memory is the most that was seen in a run of its own, evaluator included; pages that n processes
share count as an n-th in each.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from report import Report
from running import EXAMPLES, cpu, running

JOB = EXAMPLES / "doudizhu.yaml"
STILL = "algorithm.optimizer.lr=1.0e-12"
WARM_UP = 15.0
GIGABYTE = 1e9


@dataclass(frozen=True)
class Rates:
    """What one side reached, and what it took."""

    decisions: float
    steps: float
    cpu: float
    """CPU-seconds per second."""


@dataclass(frozen=True)
class Whole:
    """What only the whole run has."""

    rates: Rates
    lag: float
    most_lag: float
    most_backlog: float
    capacity: float
    memory: float
    """Bytes."""


def main() -> int:
    """Measure and report."""
    report = Report("system", __doc__)
    report.parser.add_argument("--seconds", type=float, default=60.0, help="per measured run")
    report.parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    report.parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)
    options = report.arguments()
    if options.loop:
        print(json.dumps(vars(loop(options.seconds))))
        return 0
    wholes, loops = [], []
    for number in range(options.runs):
        print(f"run {number + 1} of {options.runs}", file=sys.stderr)
        loops.append(loop_apart(options.seconds))
        wholes.append(whole(options.seconds, "evaluation.every=0", weigh=False))
    print("memory", file=sys.stderr)
    memory = whole(options.seconds, "evaluation.every=15", weigh=True).memory / GIGABYTE
    for what, unit in (("decisions", "decisions/s"), ("steps", "steps/s"), ("cpu", "CPU-s/s")):
        report.row(f"run: {what}", median([getattr(w.rates, what) for w in wholes]), unit)
        report.row(f"loop: {what}", median([getattr(r, what) for r in loops]), unit)
    for what in ("decisions", "steps"):
        ours = median([getattr(w.rates, what) for w in wholes])
        theirs = median([getattr(r, what) for r in loops])
        report.row(f"{what}, run / loop", ours / theirs, "", at_least=0.9)
    report.row("policy lag, mean", median([w.lag for w in wholes]), "updates", at_most=2)
    report.row("policy lag, most", max(w.most_lag for w in wholes), "updates")
    share = max(w.most_backlog / w.capacity for w in wholes)
    report.row("backlog, most, of its capacity", share, "", at_most=1)
    report.row("memory of the whole run", memory, "GB", at_most=2.5)
    return report.finish()


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def whole(seconds: float, override: str, *, weigh: bool) -> Whole:
    """One run as a person starts it, watched from outside; weighing it takes time of its own."""
    minutes = (seconds + WARM_UP + 10) / 60
    with running(JOB, [f"stop.minutes={minutes}", STILL, override]) as run:
        run.wait(lambda line: True)
        time.sleep(WARM_UP)
        start, before, begun = len(run.lines()), cpu(run.family()), time.monotonic()
        memory = 0.0
        while time.monotonic() < begun + seconds:
            time.sleep(5.0)
            if weigh:
                memory = max(memory, sum(_shared_once(p) for p in run.family()))
        used = (cpu(run.family()) - before) / (time.monotonic() - begun)
        lines = run.lines()[start:]
    first, last = lines[0], lines[-1]
    passed = last["time"] - first["time"]
    rates = Rates(
        decisions=(last["decisions"] - first["decisions"]) / passed,
        steps=(last["step"] - first["step"]) / passed,
        cpu=used,
    )
    return Whole(
        rates=rates,
        lag=statistics.mean(line["learner/staleness"] for line in lines),
        most_lag=max(line["learner/staleness_max"] for line in lines),
        most_backlog=max(line["queue_fill"] * line["learner/capacity_steps"] for line in lines),
        capacity=last["learner/capacity_steps"],
        memory=memory,
    )


def _shared_once(process: psutil.Process) -> float:
    """Bytes of a process, pages shared by n processes counted as an n-th each."""
    try:
        return float(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0.0


def loop_apart(seconds: float) -> Rates:
    """The loop in a process of its own, as fresh as a run is."""
    command = [sys.executable, __file__, "--loop", "--seconds", str(seconds)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Rates(**json.loads(result.stdout.splitlines()[-1]))


def loop(seconds: float) -> Rates:
    """Play and learn in this process, in turns, without any transport."""
    import numpy as np
    import torch

    from troupe import policies
    from troupe.checkpoint import Position
    from troupe.jobs import load
    from troupe.jobs.roles import policies_of
    from troupe.policies.devices import resolve_device, resolve_precision
    from troupe.store.replay import Taken
    from troupe_actors import games
    from troupe_actors.recorder import Author
    from troupe_actors.selfplay import Player, run_loop
    from troupe_actors.sources import exploration_of
    from troupe_learners import algorithms
    from troupe_learners.ring import Ring
    from troupe_learners.trainee import Hardware, Trainee

    torch.set_num_threads(2)
    job = load.read(JOB, [STILL])
    game = games.load(job.game.name, job.game.rules)
    device = resolve_device("cpu")
    dtype = resolve_precision("auto", device)
    algorithm = algorithms.load(job.algorithm)
    spaces = policies_of(job)
    trainees = {
        name: Trainee(name, held, job.network, algorithm, Hardware(device, dtype), job.seed)
        for name, held in spaces.items()
    }
    players = {
        name: Player(name, (seat,), held, policies.create_acting(held, job.network, device, dtype))
        for seat, (name, held) in enumerate(spaces.items())
    }
    for name, player in players.items():
        player.acting.load(trainees[name].weights())
    ring = Ring(spaces, algorithm.plan.batch, Position())
    tables = game.tables(job.actors.count * job.actors.tables, job.seed)
    rounds = run_loop(
        tables,
        list(players.values()),
        np.random.default_rng(job.seed),
        exploration=exploration_of(job),
        block_steps=job.actors.block_steps,
        author=Author("loop", 0, 0),
    )
    begun, number, steps, decisions, used = time.monotonic(), 0, 0, 0, 0.0
    counting = False
    for played in rounds:
        for block in played.blocks:
            number += 1
            taken = Taken(f"{number}-0", block, block.nbytes)
            ring.put(taken, algorithm.credit(block))
        while ready := ring.ready(0.0):
            policy = ready[0]
            trainees[policy].train(ring.take(policy), 0.0)
            players[policy].acting.load(trainees[policy].weights())
            players[policy].version = trainees[policy].updates
            steps += algorithm.plan.batch
        now = time.monotonic()
        if not counting and now - begun > WARM_UP:
            counting, begun, steps = True, now, 0
            decisions, used = tables.decisions, sum(os.times()[:2])
        elif counting and now - begun > seconds:
            break
    passed = time.monotonic() - begun
    return Rates(
        decisions=(tables.decisions - decisions) / passed,
        steps=steps / passed,
        cpu=(sum(os.times()[:2]) - used) / passed,
    )


if __name__ == "__main__":
    sys.exit(main())
