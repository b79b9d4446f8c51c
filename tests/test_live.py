"""What a person sees: the screen fits its terminal, lines are plain, curves are drawn."""

import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from troupe import curves
from troupe.frame import Evaluation, Frame, Learned, Returns, Waits
from troupe.jobs.spec import GameSettings, Job
from troupe.live import LineView, ScreenView, SilentView, open_view
from troupe.runs import RunFolder
from troupe.screen import Happening, clock_text, interval, picture, short

FRAME = Frame(
    time=1e9,
    elapsed=271,
    attempt=2,
    workers=5,
    step=1_489_200,
    updates=465,
    decisions=2_960_000,
    decisions_per_second=11_420.4,
    steps_per_second=6310,
    updates_per_second=1.94,
    waits=Waits(actors=0.34, learner=0.01),
    waiting_for="actors wait for the learner: 15,900 of 16,000 steps queued",
    backlog=15_900,
    capacity=16_000,
    staleness=0.81,
    staleness_max=3,
    learned=(
        Learned("landlord", 155, 0.5123, 1.2, 0.1, 1),
        Learned("landlord_down", 155, 0.4981, 1.1, -0.1, 0),
        Learned("landlord_up", 155, None, None, None, None),
    ),
    evaluations=(
        Evaluation("random", 0.947, 0.93, 0.96, 1.2),
        Evaluation("rule", 0.6, 0.57, 0.63, 0.3),
    ),
    nash_conv=None,
    returns=None,
    evaluated=1_400_000,
    progress=0.78,
    seconds_left=75,
    memory_mb=1640,
    restarts=1,
    events=(),
    reported={"learner/steps_trained": 1_489_200.0, "learner/checkpoint_step": 1_320_000.0},
)
JOB = Job(
    name="doudizhu", game=GameSettings(name="doudizhu"), algorithm={"name": "deep_monte_carlo"}
)
SOLO = replace(
    FRAME,
    capacity=0,
    backlog=512,
    learned=(
        Learned(
            "agent",
            390,
            0.31,
            0.5,
            None,
            1,
            {"loss": 0.31, "entropy": 0.5512, "policy_loss": -0.0123, "value_loss": 12.75},
        ),
    ),
    evaluations=(),
    returns=Returns(312.4, 312.4, 487.25, 475.15, 499.35, 487.25),
)
"""A run in an environment, in lockstep."""
EVENTS = [Happening(1e9 + i, f"event {i}, {'which is told at length ' * 8}") for i in range(40)]


def console(width: int = 80, height: int = 24, *, terminal: bool = True) -> Console:
    kind = "xterm-256color" if terminal else "dumb"
    return Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=terminal,
        _environ={"TERM": kind},
    )


def drawn(frame: Frame | None, width: int = 80, height: int = 24) -> list[str]:
    plain = Console(file=io.StringIO(), width=width, height=height)
    plain.print(picture("doudizhu-3", "doudizhu", frame, EVENTS, width, height))
    assert isinstance(plain.file, io.StringIO)
    return plain.file.getvalue().splitlines()


def output(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_the_screen_tells_all_that_was_asked_for():
    text = "\n".join(drawn(FRAME))
    for said in (
        "doudizhu-3",
        "attempt 2",
        "4:31",
        "78%",
        "1:15 left",
        "11,420 /s",
        "6,310 /s",
        "1.9 /s",
        "1.49 M",
        "0.5123",
        "99%",
        "15,900 of 16,000 steps",
        "0.8 updates, at most 3",
        "actors for the learner 34%",
        "15,900 of 16,000 steps queued",
        "random  0.947",
        "rule    0.600",
        "after 1.40 M steps",
        "5 workers · 1,640 MB · 1 restart · saved at step 1,320,000",
        "event 39",
    ):
        assert said in text


def test_the_screen_of_an_environment_tells_returns_and_no_win_rates():
    text = "\n".join(drawn(SOLO))
    for said in (
        "judged after 1.40 M steps",
        "playing   312.4",
        "487.2  ± 12.1",
        "policy loss    -0.0123",
        "entropy         0.5512",
        "actors 1 behind",
        "steps played    11,420 /s",
        "queue      512 steps",
    ):
        assert said in text
    for unsaid in ("WP", "evaluation", " 0 steps", "Play"):
        assert unsaid not in text
    early = replace(SOLO, learned=(), returns=Returns(None, None, None, None, None, None))
    assert "WP" not in "\n".join(drawn(early))


@pytest.mark.parametrize("frame", [FRAME, SOLO])
@pytest.mark.parametrize("width", [40, 60, 75, 76, 80, 100, 200])
@pytest.mark.parametrize("height", [12, 24, 50])
def test_the_picture_fits_its_terminal(frame: Frame, width: int, height: int):
    lines = drawn(frame, width, height)
    assert len(lines) <= height
    assert max(len(line) for line in lines) <= width
    assert any("event 39" in line for line in lines)


def test_there_is_something_to_see_before_anything_reports():
    assert "starting" in drawn(None)[0]
    quiet = replace(
        FRAME, reported={}, evaluations=(), learned=(), progress=None, seconds_left=None
    )
    text = "\n".join(drawn(quiet))
    assert "starting" in text
    assert "no evaluation yet" in text


def test_a_run_without_a_limit_has_no_time_left():
    assert "left" not in drawn(replace(FRAME, progress=None, seconds_left=None))[0]


def test_the_reason_for_waiting_is_told_only_while_it_is_noticeable():
    calm = replace(FRAME, waits=Waits(0.01, 0.02))
    assert "queued" not in "\n".join(drawn(calm))
    assert "nobody" in "\n".join(drawn(calm))


@pytest.mark.parametrize("wp", [0.0, 0.02, 0.5, 1.0])
def test_an_interval_always_shows_its_middle(wp: float):
    text = interval(Evaluation("rule", wp, wp - 0.1, wp + 0.1, None), width=21).plain
    assert len(text) == 21
    assert text.index("●") == round(wp * 20)
    assert text.count("━") == sum(0 <= round(wp * 20) + d <= 20 for d in (-2, -1, 1, 2))


def test_the_screen_leaves_its_last_picture_and_the_terminal_as_it_was():
    terminal = console()
    with ScreenView("doudizhu-3", "doudizhu", terminal, wall=lambda: 1e9) as view:
        view.event("the store runs")
        view.show(replace(FRAME, events=("checkpoint at step 5",)))
    text = output(terminal)
    assert "\x1b[?1049h" in text
    _, after = text.rsplit("\x1b[?1049l", 1)
    assert "\x1b[?25h" in text.rsplit("\x1b[?25l", 1)[1]
    for said in ("the store runs", "checkpoint at step 5", "1.49 M"):
        assert said in after


def test_plain_lines_come_every_ten_seconds_and_events_at_once():
    pipe = console(terminal=False)
    with LineView(pipe) as view:
        view.event("the store runs")
        for elapsed in range(10, 35):
            events = ("actor-1 was started again",) if elapsed == 13 else ()
            view.show(replace(FRAME, elapsed=elapsed, events=events))
    lines = output(pipe).splitlines()
    assert lines[0].split(maxsplit=1) == ["0:00", "the store runs"]
    assert [line.split()[0] for line in lines[1:]] == ["0:10", "0:13", "0:20", "0:30"]
    assert lines[2].endswith("actor-1 was started again")
    assert "\x1b" not in "".join(lines)
    assert all(line.isascii() for line in lines)
    assert lines[1].split(maxsplit=1)[1] == (
        "step 1,489,200 (78%), 11,420 decisions/s, 6,310 steps/s, 1.9 updates/s, queue 99%, "
        "waiting: actors for the learner 34%, staleness 0.8, loss 0.505, "
        "WP 0.947 against random, WP 0.600 against rule, 1,640 MB, 1:15 left"
    )


def test_no_line_of_figures_before_there_are_any():
    pipe = console(terminal=False)
    with LineView(pipe) as view:
        view.show(replace(FRAME, reported={}))
    assert output(pipe) == ""


def test_the_view_fits_where_output_goes(tmp_path: Path):
    run = RunFolder(tmp_path / "doudizhu-1")
    assert isinstance(open_view(JOB, run, console()), ScreenView)
    assert isinstance(open_view(JOB, run, console(terminal=False)), LineView)
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    narrow = Console(file=ascii_only, force_terminal=True, _environ={"TERM": "xterm"})
    assert isinstance(open_view(JOB, run, narrow), LineView)


def test_the_silent_view_says_nothing(capsys: pytest.CaptureFixture[str]):
    with SilentView() as view:
        view.show(FRAME)
        view.event("nothing")
    assert capsys.readouterr().out == ""


def test_no_colour_where_none_is_wanted():
    plain = Console(
        file=io.StringIO(),
        width=80,
        height=24,
        force_terminal=True,
        _environ={"TERM": "xterm-256color", "NO_COLOR": "1"},
    )
    with ScreenView("doudizhu-3", "doudizhu", plain) as view:
        view.show(FRAME)
    assert "\x1b[36m" not in output(plain)
    assert "38;5" not in output(plain)


def test_counts_and_times_are_short():
    counts = {0: "0", 912: "912", 48_200: "48.2 k", 1_489_200: "1.49 M", 999_999: "1.00 M"}
    assert {count: short(count) for count in counts} == counts
    assert [clock_text(s) for s in (0, 65.9, 3729)] == ["0:00", "1:05", "1:02:09"]


def test_curves_are_drawn_from_the_journal_alone(tmp_path: Path):
    run = tmp_path / "doudizhu-1"
    run.mkdir()
    lines = [
        {
            "time": 1e9 + i,
            "step": 3000 * i,
            "attempt": 1,
            "decisions_per_second": 11_000,
            "steps_per_second": 6000,
            "learner/loss/landlord": math.exp(-i / 20),
            "learner/staleness": 0.5,
            "learner/staleness_max": 2,
            "learner/training_seconds": i,
            "evaluator/eval/step": 3000 * (i // 10 * 10),
            "evaluator/eval/rule/wp": 0.4 + i // 10 * 0.02,
        }
        for i in range(1, 50)
    ]
    (run / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (run / "job.yaml").touch()
    path = curves.draw(run)
    assert path == run / "curves.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000
    play, loss, speed, staleness = curves.picture(
        "doudizhu-1", curves.read(run / "metrics.jsonl")
    ).axes
    evaluated = next(drawn for drawn in play.lines if drawn.get_label() == "against rule")
    assert list(evaluated.get_xdata()) == [0, 30_000, 60_000, 90_000, 120_000]
    assert list(evaluated.get_ydata()) == pytest.approx([0.4, 0.42, 0.44, 0.46, 0.48])
    assert loss.lines[0].get_ydata()[0] == pytest.approx(math.exp(-1 / 20))
    assert {drawn.get_label() for drawn in speed.lines} == {"decisions", "steps trained on"}
    assert len(staleness.lines) == 2


def test_curves_of_an_environment_show_returns():
    lines = [
        {
            "step": 1000.0 * i,
            "actor/return/agent": 10.0 * i,
            "learner/policy_loss/agent": -0.01,
            "learner/value_loss/agent": 5.0,
            "evaluator/eval/step": 5000.0 * (i // 5),
            "evaluator/eval/return": 12.0 * i,
            "evaluator/eval/return_low": 11.0 * i,
            "evaluator/eval/return_high": 13.0 * i,
        }
        for i in range(1, 21)
    ]
    returns, loss, *_ = curves.picture("cartpole-1", lines).axes
    assert "return" in returns.get_title(loc="left")
    judged = next(drawn for drawn in returns.lines if drawn.get_label() == "judged")
    assert list(judged.get_xdata()) == [0, 5000, 10_000, 15_000, 20_000]
    names = [line.get_label() for line in loss.lines if line.get_label() != "_raw"]
    assert names == ["policy, agent", "value, agent"]


def test_curves_of_a_run_that_never_trained_say_so(tmp_path: Path):
    assert curves.draw(tmp_path).exists()
    assert "nothing trained yet" in str(curves.picture("x", []).get_suptitle())


def test_the_launcher_stays_light():
    code = (
        "import sys, troupe.monitor, troupe.live, troupe.curves\n"
        "print([m for m in sys.modules if m in {'torch', 'ray', 'matplotlib', 'tensorboardX'}])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
