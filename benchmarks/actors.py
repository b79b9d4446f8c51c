"""How what is shared grows with the actors: CPU-seconds of the store and the weight server.

The same job (PPO on CartPole-v1, async) with one actor and with four; counted per million steps
that were trained on, after start-up. Medians of alternating runs.
"""

import statistics
import sys
import time
from pathlib import Path

from report import Report
from running import cpu, running

JOB = Path(__file__).with_name("jobs") / "ppo_cartpole.yaml"
WARM_UP = 5.0
COUNTS = (1, 4)


def main() -> int:
    """Measure and report."""
    report = Report("actors", __doc__)
    report.parser.add_argument("--seconds", type=float, default=30.0, help="per measured run")
    report.parser.add_argument("--runs", type=int, default=3, help="runs of each side")
    options = report.arguments()
    costs: dict[int, list[float]] = {count: [] for count in COUNTS}
    speeds: dict[int, list[float]] = {count: [] for count in COUNTS}
    for number in range(options.runs):
        for count in COUNTS:
            print(f"run {number + 1} of {options.runs}, {count} actors", file=sys.stderr)
            cost, speed = measure(count, options.seconds)
            costs[count].append(cost)
            speeds[count].append(speed)
    for count in COUNTS:
        report.row(f"{count} actors: store and weights", statistics.median(costs[count]), "CPU-s/M")
        report.row("  trained on", statistics.median(speeds[count]), "steps/s")
    one, many = (statistics.median(costs[count]) for count in COUNTS)
    report.row(f"{COUNTS[1]} actors / {COUNTS[0]}", many / one, "", at_most=1.3)
    return report.finish()


def measure(count: int, seconds: float) -> tuple[float, float]:
    """CPU-seconds of the shared servers per million steps, and steps per second."""
    with running(JOB, [f"actors.count={count}", "schedule=async"]) as run:
        run.wait(lambda line: line.get("step", 0) > 0)
        time.sleep(WARM_UP)
        servers = [run.store(), run.worker("weights-0")]
        first, before = run.lines()[-1], cpu(servers)
        time.sleep(seconds)
        last, used = run.lines()[-1], cpu(servers) - before
    steps = last["step"] - first["step"]
    return used / steps * 1e6, steps / (last["time"] - first["time"])


if __name__ == "__main__":
    sys.exit(main())
