"""From snapshots to frames, and from frames to the run's files."""

import io
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog

from troupe.errors import TroupeError
from troupe.frame import Prompts, Returns, Score, Waits
from troupe.jobs.spec import EnvironmentSettings, GameSettings, Job, StopSettings
from troupe.journal import read
from troupe.monitor import Monitor, outlook
from troupe.runs import RunFolder, write_aside
from troupe.track import SILENT, Track

JOB = Job(
    name="doudizhu",
    game=GameSettings(name="doudizhu"),
    algorithm={"name": "deep_monte_carlo"},
    stop=StopSettings(steps=100_000),
)


class Scene:
    """Processes that report once a second, and a clock that the test moves."""

    def __init__(self, folder: RunFolder) -> None:
        self.now = 0.0
        self.folder = folder
        self.processes: dict[str, dict[str, object]] = {}
        self.outage: Exception | None = None

    def snapshots(self) -> Mapping[str, Mapping[str, object]]:
        if self.outage:
            raise self.outage
        return {name: dict(values) for name, values in self.processes.items()}

    def open(self) -> Monitor:
        return Monitor(self, self.folder, JOB, clock=lambda: self.now, wall=lambda: 1e9 + self.now)

    def tell(self, process: str, counters: str = "", /, **values: float) -> None:
        before = self.processes.get(process, {})
        born = before.get("started", 1e9 + self.now)
        assert isinstance(born, float)
        system = {"started": born, "uptime": 1e9 + self.now - born, "rss_mb": 100.0}
        self.processes[process] = {**system, **values, "counters": counters}

    def die(self, process: str) -> None:
        self.processes[process]["started"] = 1e9 + self.now


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(RunFolder.create(tmp_path, JOB))


def train(scene: Scene, monitor: Monitor, seconds: int, start: float = 0.0) -> list[str]:
    """Two actors make 500 decisions a second each, the learner trains 600 steps in 2 updates.

    Returns the events.
    """
    events: list[str] = []
    for _ in range(seconds):
        scene.now += 1
        done = start + scene.now
        for actor in ("actor-0", "actor-1"):
            scene.tell(actor, "decisions", decisions=500 * scene.now)
        scene.tell(
            "learner-0",
            "blocked_seconds",
            blocked_seconds=0.2 * scene.now,
            steps_trained=600 * done,
            updates=2 * done,
            training_seconds=done,
        )
        events += monitor.poll().events
    return events


def test_counters_are_summed_and_rates_follow_the_processes_own_clocks(scene: Scene):
    with scene.open() as monitor:
        train(scene, monitor, 20)
        scene.now += 0.7  # between two reports nothing seems slower
        frame = monitor.poll()
    assert frame.decisions == 20_000
    assert frame.decisions_per_second == pytest.approx(1000)
    assert frame.steps_per_second == pytest.approx(600)
    assert frame.updates_per_second == pytest.approx(2)
    assert frame.step == 12_000
    assert frame.waits.learner == pytest.approx(0.2)
    assert frame.memory_mb == 300
    assert frame.workers == 3


def test_an_environments_run_is_told_by_its_returns(tmp_path: Path):
    job = Job(
        name="pole",
        environment=EnvironmentSettings(name="CartPole-v1"),
        algorithm={"name": "ppo"},
        schedule="lockstep",
    )
    scene = Scene(RunFolder.create(tmp_path, job))
    with Monitor(scene, scene.folder, job, clock=lambda: scene.now) as monitor:
        first = monitor.poll().returns
        assert first is not None
        assert first.playing is first.judged is None
        for scene.now in (10.0, 20.0):
            for slot in (0, 1):
                told = {"return/agent": 100.0 + slot, "length/agent": 90.0, "version/agent": 6.0}
                scene.tell(f"actor-{slot}", "decisions", decisions=50 * scene.now, **told)
            learned = {"updates/agent": 7.0, "value_loss/agent": 3.0, "capacity_steps": 2.0**40}
            scene.tell("learner-0", **learned)
            judged = {"eval/return": 120.0, "eval/return_low": 110.0, "eval/return_high": 130.0}
            scene.tell("evaluator-0", **judged, **{"eval/length": 120.0, "eval/step": 640.0})
            frame = monitor.poll()
    assert frame.returns == Returns(100.5, 90.0, 120.0, 110.0, 130.0, 120.0)
    assert (frame.decisions, frame.decisions_per_second) == (2000, 100)
    assert frame.learned[0].scalars == {"value_loss": 3.0}
    assert frame.learned[0].lag is None
    assert (frame.capacity, frame.queue_fill, frame.evaluations) == (0, 0.0, ())


def test_a_language_models_run_is_told_by_its_rewards_and_prompts(tmp_path: Path):
    job = Job(name="sort", algorithm={"name": "grpo"}, schedule="lockstep")
    scene = Scene(RunFolder.create(tmp_path, job))
    sampled = {"completion_length": 5.0, "truncated": 0.25, "reward_failed": 0.0}
    judged = {"eval/reward": 0.7, "eval/reward_low": 0.6, "eval/reward_high": 0.8}
    parts = {f"eval/reward/exact{end}": value for end, value in (("", 1.0), ("_low", 0.9))}
    with Monitor(scene, scene.folder, job, clock=lambda: scene.now) as monitor:
        first = monitor.poll()
        assert first.returns is None
        assert first.completions is not None
        assert first.completions.scores == (Score("reward", None, None, None, None),)
        assert first.completions.prompts is None
        prompts_stand(scene.folder, ready=9, done=4, dead_count=0)
        for scene.now in (10.0, 20.0):
            for slot in (0, 1):
                rewards = {"reward": 0.4 + 0.2 * slot, "reward/exact": 0.5, "reward/aside": 2.0}
                counts = {"tokens": 500 * scene.now, "completions": 100 * scene.now}
                scene.tell(f"actor-{slot}", "tokens completions", **rewards, **sampled, **counts)
            told = {"reward/agent": 0.5, "entropy/agent": 1.5, "updates/agent": 7.0}
            scene.tell("learner-0", steps_trained=640.0, **told)
            scene.tell("evaluator-0", **judged, **parts, **{"eval/truncated": 0.1})
            frame = monitor.poll()
        prompts_stand(scene.folder, ready=7, done=5, dead_count=1)
        after = monitor.poll()
    text = frame.completions
    assert text is not None
    assert text.scores == (
        Score("reward", 0.5, 0.7, 0.6, 0.8),
        Score("aside", 2.0, None, None, None),
        Score("exact", 0.5, 1.0, 0.9, None),
    )
    assert (text.length, text.truncated, text.judged_truncated) == (5.0, 0.25, 0.1)
    assert (text.count, text.per_second) == (4000, 200)
    assert (frame.decisions, frame.decisions_per_second, frame.played) == (20_000, 1000, "tokens")
    assert text.prompts == Prompts(ready=9, leased=1, done=4, dropped=3, dead=0)
    assert after.events == ("1 prompt put aside: `troupe prompts` says why",)
    scalars = after.scalars()
    assert (scalars["prompts_dead"], scalars["completions_per_second"]) == (1, 200)
    assert frame.learned[0].scalars == {"reward": 0.5, "entropy": 1.5}


def prompts_stand(folder: RunFolder, **counts: int) -> None:
    """What the launcher writes of a run's prompts."""
    lease = {"prompt": 1, "epoch": 0, "holder": "actor-0", "seconds": 1.0, "left": 59.0}
    document = {"time": 1e9, "prompts": 20, "epoch": 0, "epochs": 1, "returned": 0, "waiting": 0}
    document |= {"leased": [lease], "dropped": {"zero variance": 3}, "dead": [], **counts}
    write_aside(folder.path / "prompts.json", json.dumps(document))


def test_a_rate_looks_back_ten_seconds():
    track = Track()
    for second in range(60):
        slow = 100.0 * second
        fast = slow + 400.0 * max(0, second - 40)
        track.observe({"started": 1.0, "uptime": float(second), "steps": fast}, second)
    assert track.rate("steps") == pytest.approx(500)
    assert track.rate("nothing") == 0


def test_a_restart_loses_no_count_and_is_told(scene: Scene):
    with scene.open() as monitor:
        scene.now = 10
        scene.tell("actor-0", "decisions", decisions=500)
        scene.now = 20
        scene.tell("actor-0", "decisions", decisions=1500)
        monitor.poll()
        scene.die("actor-0")
        scene.now = 21
        scene.tell("actor-0", "decisions", decisions=30)
        frame = monitor.poll()
        assert frame.events == ("actor-0 was started again",)
        assert (frame.decisions, frame.restarts) == (1530, 1)
        assert frame.decisions_per_second == 0
        assert monitor.poll().events == ()


def test_a_learner_that_falls_back_has_no_negative_speed(scene: Scene):
    track = Track()
    track.observe({"started": 1.0, "uptime": 1.0, "steps_trained": 900.0}, 1)
    track.observe({"started": 1.0, "uptime": 2.0, "steps_trained": 300.0}, 2)
    assert track.rate("steps_trained") == 0


def test_a_silent_process_does_not_count(scene: Scene):
    with scene.open() as monitor:
        train(scene, monitor, 5)
        scene.now += SILENT
        frame = monitor.poll()
    assert (frame.workers, frame.memory_mb, frame.steps_per_second) == (0, 0, 0)
    assert frame.step == 3000


def test_what_an_earlier_attempt_left_in_the_store_is_not_counted(scene: Scene):
    scene.tell("actor-0", "decisions", decisions=9000)
    with scene.open() as monitor:
        assert monitor.poll().workers == 0
        scene.now = 5
        scene.die("actor-0")
        scene.tell("actor-0", "decisions", decisions=40)
        frame = monitor.poll()
    assert (frame.decisions, frame.restarts, frame.workers) == (40, 0, 1)


def test_an_outage_of_the_store_is_told_once_and_leaves_the_frame(scene: Scene):
    with scene.open() as monitor:
        train(scene, monitor, 5)
        scene.outage = TroupeError("store: refused")
        assert monitor.poll().events == ("the store does not answer: store: refused",)
        frame = monitor.poll()
        assert (frame.events, frame.step) == ((), 3000)
        scene.outage = None
        assert monitor.poll().events == ("the store answers again",)


def test_policies_and_evaluations_are_read_by_name(scene: Scene):
    with scene.open() as monitor:
        scene.tell("actor-0", **{"version/landlord": 7, "version/landlord_up": 9})
        scene.tell("actor-1", **{"version/landlord": 8})
        losses = {"loss/landlord": 0.5, "updates/landlord": 10, "updates/landlord_up": 9}
        scene.tell("learner-0", steps_trained=640.0, **losses)
        against = {"wp": 0.9, "wp_low": 0.88, "wp_high": 0.92, "adp": 0.8}
        wp = {f"eval/random/{name}": value for name, value in against.items()}
        scene.tell("evaluator-0", **wp, **{"eval/step": 500})
        frame = monitor.poll()
    landlord, up = frame.learned
    assert (landlord.policy, landlord.loss, landlord.updates, landlord.lag) == (
        "landlord",
        0.5,
        10,
        3,
    )
    assert (up.policy, up.loss, up.lag) == ("landlord_up", None, 0)
    (evaluation,) = frame.evaluations
    assert (evaluation.opponent, evaluation.wp, evaluation.adp) == ("random", 0.9, 0.8)
    assert (evaluation.wp_low, evaluation.wp_high) == (0.88, 0.92)
    assert frame.evaluated == 500


def test_a_checkpoint_is_an_event(scene: Scene):
    with scene.open() as monitor:
        scene.tell("learner-0", steps_trained=640.0)
        monitor.poll()
        scene.now = 1
        scene.tell("learner-0", steps_trained=640.0, checkpoint_step=640.0)
        assert monitor.poll().events == ("checkpoint at step 640",)
        assert monitor.poll().events == ()


def test_a_checkpoint_that_failed_is_an_event(scene: Scene):
    with scene.open() as monitor:
        scene.tell("learner-0", "checkpoint_failures", steps_trained=640.0)
        monitor.poll()
        scene.now = 1
        scene.tell("learner-0", "checkpoint_failures", steps_trained=640.0, checkpoint_failures=1)
        (event,) = monitor.poll().events
    assert "could not be written" in event


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (StopSettings(), (None, None)),
        (StopSettings(steps=10_000), (0.5, 100)),
        (StopSettings(updates=200), (0.25, 300)),
        (StopSettings(minutes=5), (100 / 300, 200)),
        (StopSettings(steps=10_000, updates=200, minutes=5), (0.5, 100)),
        (StopSettings(steps=1000), (1.0, 0.0)),
    ],
)
def test_the_limit_that_comes_first_tells_the_time_left(
    limits: StopSettings, expected: tuple[float, float]
):
    learner = {"steps_trained": 5000, "updates": 50, "training_seconds": 100}
    reported = {f"learner/{name}": float(value) for name, value in learner.items()}
    progress, seconds_left = outlook(limits, reported)
    assert (progress, seconds_left) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


def test_no_time_left_is_told_before_the_speed_is_known():
    assert outlook(StopSettings(steps=1000), {}) == (0, None)
    assert outlook(StopSettings(steps=1000), {"learner/steps_trained": 9.0}) == (0.009, None)


def test_waiting_is_said_in_words():
    assert Waits(0.01, 0.02).phrases() == ["nobody"]
    assert Waits(0.34, 0.02).phrases() == ["actors for the learner 34%"]
    assert Waits(0.10, 0.25).phrases() == ["actors for the learner 10%", "learner for actors 25%"]


def test_the_journal_gets_a_line_every_five_seconds_and_one_at_the_end(scene: Scene):
    with scene.open() as monitor:
        monitor.poll()
        train(scene, monitor, 18)
    lines = read(scene.folder.metrics)
    assert [line["step"] for line in lines] == [3600, 6600, 9600, 10_800]
    assert lines[0]["time"] == 1e9 + 6
    assert lines[0]["decisions_per_second"] == pytest.approx(1000)
    assert lines[-1]["learner/steps_trained"] == 10_800
    assert lines[-1]["actor/decisions"] == 18_000
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_a_run_without_a_learner_leaves_no_line(scene: Scene):
    with scene.open() as monitor:
        scene.tell("actor-0", "decisions", decisions=1.0)
        monitor.poll()
    assert read(scene.folder.metrics) == []


def test_a_resumed_run_appends_and_supersedes_the_steps_that_were_lost(scene: Scene):
    with scene.folder.attempt(), scene.open() as monitor:
        train(scene, monitor, 18)
    with scene.folder.metrics.open("a") as torn:
        torn.write('{"step": 10800, "lear')
    scene.processes.clear()
    again = Scene(scene.folder)
    with again.folder.attempt(), again.open() as monitor:
        train(again, monitor, 12, start=5)  # goes on from the checkpoint at step 3000
        frame = monitor.poll()
    assert frame.attempt == 2
    assert frame.decisions == 18_000 + 12_000
    lines = read(scene.folder.metrics)
    assert [(line["attempt"], line["step"]) for line in lines] == [
        (1, 3600),
        (2, 6600),
        (2, 9600),
        (2, 10_200),
    ]


def test_a_number_that_is_none_is_left_out_of_the_journal(scene: Scene):
    with scene.open() as monitor:
        scene.tell("learner-0", **{"steps_trained": 1.0, "loss/landlord": math.nan})
        monitor.poll()
    (line,) = [json.loads(text) for text in scene.folder.metrics.read_text().splitlines()]
    assert "learner/loss/landlord" not in line
    assert line["learner/steps_trained"] == 1


def test_a_full_disk_is_an_event_and_the_journal_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
):
    with scene.open() as monitor:
        journal = monitor._journal
        train(scene, monitor, 7)
        with monkeypatch.context() as full:
            full.setattr(journal, "_lines", FullDisk(journal._lines))
            events = train(scene, monitor, 11)
        assert [event for event in events if "no space left" in event] == [
            f"{scene.folder.metrics}: no space left on device; make room or mend the disk, then go on"
        ]
        assert not train(scene, monitor, 6)
    assert [line["step"] for line in read(scene.folder.metrics)] == [3600, 12_600, 14_400]


class FullDisk:
    """A file that takes a few bytes of what is written."""

    def __init__(self, file: io.FileIO) -> None:
        self.file = file

    def write(self, data: bytes) -> int:
        return self.file.write(data[:9])


def test_tensorboard_gets_the_same_numbers(scene: Scene):
    with scene.open() as monitor:
        train(scene, monitor, 7)
        frame = replace(monitor.poll(), events=())
    (path,) = scene.folder.tensorboard.iterdir()
    head, start, *events = records(path.read_bytes())
    assert head.file_version == "brain.Event:2"
    assert start.session_log.status == SessionLog.START
    assert start.step == 3600
    assert [event.step for event in events] == [3600, 4200]
    written = {value.tag: value.simple_value for value in events[-1].summary.value}
    assert written == pytest.approx(frame.scalars())
    assert events[-1].wall_time == frame.time


def records(data: bytes) -> list[Event]:
    """The events of a TensorBoard file, their checksums checked."""
    events = []
    while data:
        length = struct.unpack("<Q", data[:8])[0]
        body, rest = data[12 : 12 + length], data[12 + length :]
        assert data[8:12] == masked(data[:8])
        assert rest[:4] == masked(body)
        events.append(Event.FromString(body))
        data = rest[4:]
    return events


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)


def test_a_journal_that_cannot_be_written_is_named(scene: Scene):
    scene.folder.metrics.mkdir()
    with pytest.raises(TroupeError, match=r"metrics\.jsonl: is a directory"):
        scene.open()
