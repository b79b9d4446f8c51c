"""Random play of Dou Dizhu through the batched Python interface, features included, on one core.

The line is on processor time: what one core does, also while others want it.
"""

import argparse
import statistics
import sys
import time

import numpy as np
from report import Report

from troupe_actors.games.doudizhu import Game, Rules

LINE = 5e6
"""Decisions per CPU-second at 256 tables, forced moves chosen like any other."""


def rate(count: int, *, skip_forced: bool, seconds: float) -> tuple[float, float]:
    """Decisions per second of wall time and of processor time, every move counted as one."""
    tables = Game(Rules()).tables(count, seed=1, skip_forced=skip_forced)
    random = np.random.default_rng(1)
    turn = tables.turn()
    wall, cpu, before = time.perf_counter(), time.process_time(), tables.decisions
    while time.perf_counter() - wall < seconds:
        for _ in range(100):
            offsets = turn.offsets
            options = offsets[1:] - offsets[:-1]
            turn = tables.play((random.random(count) * options).astype(np.int64))
    made = tables.decisions - before
    return made / (time.perf_counter() - wall), made / (time.process_time() - cpu)


def main() -> int:
    report = Report("engine", __doc__)
    report.parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    report.parser.add_argument("--repeats", type=int, default=5, help="of which the median counts")
    options: argparse.Namespace = report.arguments()
    started = time.perf_counter()
    rate(1, skip_forced=False, seconds=0)
    report.row("first use: compiled, or read from its cache", time.perf_counter() - started, "s")
    for count, skip_forced in ((1, False), (16, False), (256, False), (256, True), (1024, False)):
        runs = [
            rate(count, skip_forced=skip_forced, seconds=options.seconds)
            for _ in range(options.repeats)
        ]
        wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        what = f"tables: {count}" + ", forced moves skipped" * skip_forced
        line = LINE if count == 256 and not skip_forced else None
        report.row(what, cpu, "decisions per CPU-second", at_least=line)
        report.row("  the same by the clock", wall, "decisions/s")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
