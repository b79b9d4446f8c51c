"""The table of samples: what is kept of it, what is read back, what is shown."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from troupe import cli, gallery
from troupe.errors import UserError
from troupe.jobs.spec import GameSettings, Job
from troupe.runs import RunFolder
from troupe.samples import LONGEST, Entry, SampleTable, extremes, ranked, read

NAN = math.nan


def entry(
    reward: float = 0.0,
    *,
    version: int = 1,
    group: int = 0,
    prompt: str = "sort 21",
    completion: str = "12",
    finish: str = "stop",
) -> Entry:
    return Entry(
        version=version,
        group=group,
        prompt=prompt,
        completion=completion,
        answer="12",
        reward=reward,
        rewards={"exact": reward, "form": 1.0},
        tokens=3,
        finish=finish,
        reason="exact: gave nan" if math.isnan(reward) else "",
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    job = Job(name="sort", game=GameSettings(name="doudizhu"), algorithm={"name": "any"})
    return RunFolder.create(tmp_path / "runs", job)


def rewards(entries: list[Entry]) -> list[float]:
    return [entry.reward for entry in entries]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    odd = entry(NAN, completion="\x1b[31m \udc80 \u2028 é\n")
    SampleTable(path, attempt=2).write([entry(1.0), odd])
    first, second = read(path)
    assert (first.reward, first.rewards, first.attempt) == (1.0, {"exact": 1.0, "form": 1.0}, 2)
    assert math.isnan(second.reward)
    assert math.isnan(second.rewards["exact"])
    assert second.completion == odd.completion
    assert len(path.read_bytes().splitlines()) == 2
    assert "NaN" not in path.read_text()


def test_an_update_is_bounded_and_keeps_the_best_and_the_worst(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    table = SampleTable(path, per_update=5)
    table.write([entry(1.0), entry(2.0)])
    table.write([entry(reward) for reward in (5, 9, 1, 7, 3)])
    table.write([entry(8.0), entry(8.0, version=2)])
    assert rewards(read(path, 1)) == [1, 2, 9, 1, 7]
    assert rewards(read(path, 2)) == [8]


def test_a_long_text_loses_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    SampleTable(path).write([entry(completion="a" * LONGEST + "b" * LONGEST)])
    kept = read(path)[0].completion
    assert len(kept) < LONGEST + 40
    assert kept.startswith("aaa")
    assert kept.endswith("bbb")
    assert "… 8,000 characters …" in kept


def test_order_is_by_reward_with_the_failed_between() -> None:
    entries = [entry(reward) for reward in (1, NAN, 3, 2)]
    assert str(rewards(ranked(entries))) == "[3, 2, nan, 1]"
    assert rewards(extremes(entries, 2)) == [1, 3]
    assert extremes(entries, 0) == []
    assert extremes(entries, 4) == entries


def test_a_version_that_is_not_there_is_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    table = SampleTable(path)
    for version in (2, 4, 6):
        table.write([entry(float(version), version=version)])
    table.write([entry(4.5, version=4)])  # an actor that was behind
    assert rewards(read(path)) == [6]
    assert rewards(read(path, 5)) == [4, 4.5]
    assert read(path, 1) == []


def test_what_was_lost_with_a_checkpoint_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    for attempt, versions in ((1, (3, 4, 5)), (2, (4,))):
        table = SampleTable(path, attempt=attempt)
        for version in versions:
            table.write([entry(10.0 * attempt + version, version=version)])
    assert rewards(read(path)) == [24]
    assert rewards(read(path, 4)) == [24]
    assert rewards(read(path, 3)) == [13]


def test_a_torn_line_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    SampleTable(path).write([entry(1.0)])
    path.write_bytes(path.read_bytes() + b'{"version": 1, "rew')
    SampleTable(path).write([entry(2.0)])
    assert rewards(read(path)) == [1, 2]


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_fits_and_shows_all_that_counts(width: int) -> None:
    long = "<think>" + "and so on " * 200 + "</think>\n\x1b[2Jdone"
    entries = [entry(1.0), entry(NAN, group=1), entry(-0.5, completion=long, finish="length")]
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    first, last = gallery._ends(entries, 1, 2)
    console.print(gallery.picture("sort-1", entries, first, last, width))
    console.file.close()
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    for shown in (
        "sort-1  3 samples of 2 prompts after 1 update",
        "reward 0.250   exact 0.250   form 1.000   tokens 3.0   cut off 33%   failed 1",
        "reward  1.000   sort 21",
        "exact  failed",
        "answer 12",
        "exact: gave",
        "cut off",
        "␛[2Jdone",
        "lines ⋯",
    ):
        assert shown in text


def test_best_and_worst_have_no_sample_in_common() -> None:
    entries = [entry(reward) for reward in (1, 2, 3)]
    first, last = gallery._ends(entries, 2, 2)
    assert (rewards(first), rewards(last)) == ([3, 2], [1])
    assert gallery._ends(entries, 0, 2) == ([], [entries[0], entries[1]])


def test_the_command_prints_json(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    table = SampleTable(run.samples)
    table.write([entry(reward, version=3) for reward in (0.0, NAN, 1.0)])
    table.write([entry(version=9)])
    arguments = ["samples", str(run.path), "--json", "--step", "5", "--best", "2", "--worst", "1"]
    assert cli.main(arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["samples"]) == (3, 3)
    assert [e["reward"] for e in shown["best"]] == [1.0, None]
    assert [e["completion"] for e in shown["worst"]] == ["12"]
    assert cli.main(["samples", str(run.path)]) == 0
    assert "after 9 updates" in capsys.readouterr().out


def test_a_run_without_samples_says_so(run: RunFolder) -> None:
    with pytest.raises(UserError, match="sort-1: has no samples; runs of language models keep"):
        gallery.show(run, None, 3, 3, as_json=False)
    SampleTable(run.samples).write([entry(version=7)])
    with pytest.raises(UserError, match="--step: the oldest samples of sort-1 are of step 7"):
        gallery.show(run, 6, 3, 3, as_json=False)
    with pytest.raises(UserError, match="--worst: -1 is below 0"):
        gallery.show(run, None, 3, -1, as_json=False)
