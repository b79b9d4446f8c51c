"""Text: every prompt is answered exactly once, though its actors are killed with -9 while they answer.

A run of `jobs/grpo_sorting.yaml` (`troupe train`, async, two actors) goes through its prompts once.
Meanwhile an actor that has prompts in hand is killed, again and again, evenly over the run. A kill
counts if the dead actor's prompts were still unanswered afterwards. A witness reads every block
that joins the log, beside the learner and without its help; what it saw is held against the run's own
records: `prompts.json`, the journal, and the last checkpoint. Recovery is the time from a kill until
the first block of the actor's next life.
"""

import math
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from report import Report
from running import Run, running
from text_speed import JOB, prepared

from troupe import checkpoint
from troupe.errors import TroupeError
from troupe.jobs.setting import RUN, STORE_URL
from troupe.prompts import show
from troupe.prompts.show import Record
from troupe.runs import RunFolder
from troupe.store.connection import Store
from troupe.store.prompt_progress import PromptProgress
from troupe.store.prompt_state import look
from troupe.store.replay import START, ReplayLog

ACTORS = 2
COMPLETIONS = 8
_LOOK_SECONDS = 0.02


@dataclass
class Witness:
    """What joined the log."""

    answers: Counter[int] = field(default_factory=Counter)
    """By ticket: the blocks that answered it."""
    steps: Counter[int] = field(default_factory=Counter)
    """By ticket: its tokens."""
    short: int = 0
    """Answers with fewer completions than were asked for."""
    lives: dict[tuple[str, int], float] = field(default_factory=dict)
    """By actor and life: when its first block was seen."""

    def watch(self, log: ReplayLog, over: threading.Event) -> None:
        """Read along until the run is over, or its store is."""
        after = START
        try:
            while not over.is_set():
                for taken in log.take(after, count=64, timeout=0.1):
                    self._see(taken.block)
                    after = taken.id
        except TroupeError:
            return

    def _see(self, block) -> None:
        self.lives.setdefault((block.actor, block.incarnation), time.monotonic())
        fragments = Counter(block.group.tolist())
        for ticket, length in zip(block.group.tolist(), block.length.tolist(), strict=True):
            self.steps[ticket] += length
        self.answers.update(fragments.keys())
        self.short += sum(count != COMPLETIONS for count in fragments.values())


@dataclass(frozen=True)
class Kill:
    """An actor's death."""

    actor: str
    time: float


def main() -> int:
    """Run, kill, compare, report."""
    report = Report("text_faults", __doc__)
    report.parser.add_argument("--kills", type=int, default=20)
    report.parser.add_argument("--prompts", type=int, default=5000)
    options = report.arguments()
    witness, over = Witness(), threading.Event()
    with tempfile.TemporaryDirectory() as scratch:
        overrides = [
            *prepared(Path(scratch)),
            f"text.prompts.limit={options.prompts}",
            "text.prompts.epochs=1",
            "schedule=async",
            f"actors.count={ACTORS}",
        ]
        with running(JOB, overrides) as run:
            run.wait(lambda line: line.get("step", 0) > 0)
            store = _store(run)
            reader = threading.Thread(target=witness.watch, args=(ReplayLog(store), over))
            reader.start()
            kills = _kill(run, store, options.kills, options.prompts)
            run.process.wait()
            over.set()
            reader.join()
            _rows(report, run, witness, kills, options.prompts)
    return report.finish({"recovery": _recoveries(kills, witness)})


def _store(run: Run) -> Store:
    """A connection of our own to the store that the run started for itself."""
    told = run.worker("actor-0").environ()
    return Store.connect(told[STORE_URL], told[RUN])


def _kill(run: Run, store: Store, count: int, prompts: int) -> list[Kill]:
    """Kill `count` actors in mid-group, one by one, evenly over all prompts."""
    kills: list[Kill] = []
    while len(kills) < count:
        state = look(store)
        if state.done + state.ready + len(state.leased) and not state.ready:
            sys.exit(f"all prompts were given out after {len(kills)} kills; take more --prompts")
        if state.done >= prompts * len(kills) / count and state.leased:
            victim = state.leased[0].holder
            if kill := _killed(run, store, victim):
                kills.append(kill)
                print(f"kill {len(kills)}: {victim} at {state.done:,} prompts", file=sys.stderr)
        time.sleep(_LOOK_SECONDS)
    return kills


def _killed(run: Run, store: Store, actor: str) -> Kill | None:
    """Kill an actor; nothing if it is dead already, or had no prompt in hand."""
    process = run.find(actor)
    if process is None:
        return None
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return None
    died = time.monotonic()
    process.wait()
    held = any(lease.holder == actor for lease in look(store).leased)
    return Kill(actor, died) if held else None


def _recoveries(kills: list[Kill], witness: Witness) -> list[float]:
    """Seconds from each kill to the actor's next block; none where it was killed again before that."""
    found = []
    for kill in kills:
        begun = [t for (actor, _), t in witness.lives.items() if actor == kill.actor]
        deaths = [other.time for other in kills if other.actor == kill.actor]
        next_death = min((t for t in deaths if t > kill.time), default=math.inf)
        found += [t - kill.time for t in begun if kill.time < t < next_death]
    return found


def _rows(report: Report, run: Run, witness: Witness, kills: list[Kill], prompts: int) -> None:
    folder = RunFolder(run.folder)
    record: Record = show.read(folder)
    saved = checkpoint.load(checkpoint.newest(run.folder))
    progress = PromptProgress.load(saved.documents["prompts"])
    waiting = set(progress.open)
    trained = sum(n for ticket, n in witness.steps.items() if ticket not in waiting)
    report.row("kills in mid-group", len(kills), "", at_least=report.options.kills)
    report.row("prompts", prompts, "")
    report.row("answered", len(witness.answers), "", at_least=prompts)
    report.row("lost", prompts - len(witness.answers), "", at_most=0)
    twice = sum(count > 1 for count in witness.answers.values())
    report.row("answered twice", twice, "", at_most=0)
    report.row("answered in part", witness.short, "", at_most=0)
    report.row(
        "done, as the run's record has it", record.done, "", at_least=prompts, at_most=prompts
    )
    left = record.ready + len(record.leased) + record.dead_count + sum(record.dropped.values())
    report.row("ready, leased, dropped or dead in it", left, "", at_most=0)
    report.row("tokens trained on twice or not at all", abs(saved.step - trained), "", at_most=0)
    report.row("left over, fewer than a batch", len(waiting), "prompts", at_most=15)
    seconds = _recoveries(kills, witness)
    report.row("recovery of an actor, median", statistics.median(seconds), "s")
    report.row("recovery, most", max(seconds), "s")


if __name__ == "__main__":
    sys.exit(main())
