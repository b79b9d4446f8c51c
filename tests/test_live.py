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

from troupe import completions, curves
from troupe.blocks import clock_text, short
from troupe.frame import Completions, Evaluation, Frame, Learned, Prompts, Returns, Score, Waits
from troupe.jobs.spec import GameSettings, Job
from troupe.live import LineView, ScreenView, SilentView, open_view
from troupe.runs import RunFolder
from troupe.screen import Happening, interval, picture

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
TEXT = replace(
    FRAME,
    capacity=0,
    backlog=0,
    updates=87,
    updates_per_second=1.94,
    waiting_for="",
    learned=(
        Learned(
            "agent",
            87,
            0.0012,
            0.5,
            None,
            1,
            {
                "loss": 0.0012,
                "grad_norm": 0.4812,
                "entropy": 1.5512,
                "approx_kl": 0.00131,
                "clip_fraction": 0.0271,
                "log_prob_gap": 2.1e-06,
                "reward": 0.6,
                "reward/exact": 0.7,
                "completion_length": 5.1,
                "truncated": 0.01,
                "zero_variance": 0.25,
            },
        ),
    ),
    evaluations=(),
    completions=Completions(
        scores=(
            Score("reward", 0.6121, 0.7014, 0.6885, 0.7143),
            Score("exact", 0.7121, 0.8014, 0.7885, 0.8143),
            Score("overlong", -0.1, -0.1, -0.12, -0.08),
        ),
        length=5.12,
        truncated=0.013,
        failed=0.002,
        judged_length=5.01,
        judged_truncated=0.0,
        count=297_000,
        per_second=2230.4,
        dropped_groups=12,
        prompts=Prompts(ready=4412, leased=16, done=5588, dropped=3, dead=2),
    ),
)
"""A run of a language model, in lockstep."""
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


def test_the_screen_of_a_language_model_tells_rewards_and_prompts():
    text = "\n".join(drawn(TEXT))
    for said in (
        "Completions, judged at 1.40 M tokens",
        "reward      0.612   0.701  ± 0.013",
        "overlong   -0.100  -0.100  ± 0.020",
        "tokens        5.1     5.0",
        "cut off      1.3%    0.0%",
        "failed       0.2%",
        "tokens sampled   11,420 /s",
        "completions     2,230.4 /s",
        "entropy                     1.5512",
        "approx KL                 1.31e-03",
        "clipped                       2.7%",
        "groups without variance      25.0%",
        "trainer-sampler gap       2.10e-06",
        "4,412 ready, 16 leased",
        "           5,588 done, 3 dropped",
        "           2 dead",
    ):
        assert said in text
    for unsaid in ("WP", "decisions", "completion length"):
        assert unsaid not in text
    tall = "\n".join(drawn(TEXT, 120, 40))
    assert "gradient norm               0.4812" in tall
    assert "queue      0 tokens" in tall


def test_a_language_model_has_something_to_see_before_anything_reports():
    nothing = completions.told({}, 0.0, None)
    early = replace(TEXT, learned=(), reported={}, completions=nothing, staleness=None)
    text = "\n".join(drawn(early))
    for said in ("starting", "Completions", "reward", "Learning"):
        assert said in text


def test_a_single_reward_that_is_the_sum_is_shown_once():
    assert TEXT.completions is not None
    single = replace(TEXT.completions, scores=TEXT.completions.scores[:2])
    assert "exact" not in "\n".join(drawn(replace(TEXT, completions=single)))


def test_many_rewards_leave_room_for_the_rest():
    assert TEXT.completions is not None
    many = tuple(Score(f"part{i}", 0.5, None, None, None) for i in range(12))
    scores = (TEXT.completions.scores[0], *many)
    frame = replace(TEXT, completions=replace(TEXT.completions, scores=scores))
    low, tall = "\n".join(drawn(frame)), "\n".join(drawn(frame, 120, 50))
    assert "part1" in low
    assert "trainer-sampler gap" in low
    assert "part11" not in low
    assert "part11" in tall


def test_the_line_of_a_language_model():
    pipe = console(terminal=False)
    with LineView(pipe) as view:
        view.show(TEXT)
    (line,) = output(pipe).splitlines()
    assert line.isascii()
    assert line.split(maxsplit=1)[1] == (
        "step 1,489,200 (78%), 11,420 tokens/s, 6,310 steps/s, 1.9 updates/s, queue 0, "
        "waiting: actors for the learner 34%, staleness 0.8, reward 0.612, exact 0.712, "
        "overlong -0.100, judged 0.701, length 5.1, cut off 1%, rewards failed 0.2%, "
        "entropy 1.5512, approx KL 1.31e-03, clipped 2.7%, groups without variance 25.0%, "
        "trainer-sampler gap 2.10e-06, loss 0.0012, prompts 4,412 ready, 16 leased, 5,588 done, "
        "3 dropped, 2 dead, 1,640 MB, 1:15 left"
    )


@pytest.mark.parametrize("frame", [FRAME, SOLO, TEXT])
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


def text_lines() -> list[dict[str, float]]:
    """Of a language model that learns: a line each update, every fifth weights judged."""
    return [
        {
            "step": 640.0 * i,
            "updates": float(i),
            "decisions_per_second": 12_000.0,
            "steps_per_second": 9000.0 + 500 * math.sin(i),
            "actor/reward": 1 - math.exp(-i / 60),
            "actor/reward/exact": 1 - math.exp(-i / 60),
            "actor/reward/length": -0.1 * math.exp(-i / 60),
            "actor/reward_failed": 0.0,
            "actor/completion_length": 5.0,
            "learner/reward/agent": 1 - math.exp(-i / 60) + 0.03 * math.sin(3 * i),
            "learner/reward/exact/agent": 1 - math.exp(-i / 60),
            "learner/completion_length/agent": 5 + 2 * math.exp(-i / 40),
            "learner/truncated/agent": 0.2 * math.exp(-i / 40),
            "learner/zero_variance/agent": i / 300,
            "learner/clip_fraction/agent": 0.02,
            "learner/entropy/agent": 2 * math.exp(-i / 80),
            "learner/approx_kl/agent": 0.001 + 0.0005 * math.sin(i),
            "learner/log_prob_gap/agent": 3e-6,
            "learner/staleness": 1.0,
            "learner/staleness_max": 1.0,
            "learner/training_seconds": 0.5 * i,
            "evaluator/eval/step": 640.0 * 5 * (i // 5),
            "evaluator/eval/reward": 1 - math.exp(-(i // 5) / 12),
            "evaluator/eval/reward_low": 0.97 - math.exp(-(i // 5) / 12),
            "evaluator/eval/reward_high": 1.03 - math.exp(-(i // 5) / 12),
            "evaluator/eval/reward/exact": 1 - math.exp(-(i // 5) / 12),
            "evaluator/eval/completion_length": 5.0,
        }
        for i in range(1, 201)
    ]


def test_curves_of_a_language_model_show_rewards_over_tokens():
    figure = curves.picture("sort-grpo-1", text_lines())
    assert "128 k tokens, 200 updates in 1:40" in str(figure.get_suptitle())
    reward, parts, length, shares, entropy, divergence, speed, _ = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in reward.lines}
    assert drawn.keys() == {"_raw", "as sampled", "judged"}
    assert drawn["_raw"][0] == text_lines()[0]["learner/reward/agent"]
    assert len(drawn["judged"]) == 41
    told = [[line.get_label() for line in panel.lines] for panel in (parts, shares, divergence)]
    assert [[label for label in labels if not label.startswith("_")] for labels in told] == [
        ["exact", "length"],
        ["cut off", "groups without variance", "clipped"],
        ["approx KL", "trainer-sampler gap"],
    ]
    assert "tokens sampled" in {line.get_label() for line in speed.lines}
    assert length.lines
    assert entropy.lines
    alone = [{"step": 1.0, "actor/completion_length": 3.0, "actor/reward": 0.5}]
    reward = curves.picture("x", alone).axes[0]
    assert reward.lines[0].get_ydata()[0] == 0.5
    assert "judged" not in {line.get_label() for line in reward.lines}


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
