"""The command line: instant help, and one line for a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from troupe import __version__, cli, runs

QUICK = 0.3


def test_help_is_instant() -> None:
    """By processor time, the best of five: not by what else the machine is doing."""
    best = min(_seconds([sys.executable, "-m", "troupe.cli", "--help"]) for _ in range(5))
    assert best < QUICK


def _seconds(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user + after.children_system) - (
        before.children_user + before.children_system
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, troupe.cli; print([m for m in ('torch', 'ray', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"troupe {__version__}\n"


def test_what_the_system_refuses_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(base: Path, *, as_json: bool) -> int:
        (base / "gone" / "lock").open("x")
        return 0

    monkeypatch.setattr(runs, "show", refuse)
    assert cli.main(["list", "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"troupe: {tmp_path}/gone/lock: No such file or directory\n"


def test_overrides_may_follow_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr(cli, "_train", lambda options: told.append(options.overrides) or 0)
    assert cli.main(["train", "job.yaml", "seed=2", "--runs", str(tmp_path), "actors.count=3"]) == 0
    assert told == [["seed=2", "actors.count=3"]]
    for wrong in (["train", "job.yaml", "--wrong"], ["list", "seed=2"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(wrong)
        assert ended.value.code == 2
        assert f"unrecognized arguments: {wrong[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "nowhere.yaml"], "troupe: nowhere.yaml: cannot be read"),
        (["eval", "no-such-run"], "no-such-run"),
        (["resume", "no-such-run"], "no-such-run"),
        (["play", "no-such-run"], "no-such-run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    output = capsys.readouterr()
    assert told in output.err
    assert len(output.err.splitlines()) == 1
    assert output.out == ""
