"""The run folder: names, the hold of one launcher, what is read back, what is said when it fails."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from troupe.checkpoint import newest
from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import GameSettings, Job
from troupe.runs import RunFolder, RunFolderError, list_runs, show, write_aside, writing

JOB = Job(
    name="doudizhu",
    game=GameSettings(name="doudizhu", rules={"bomb": 2}),
    algorithm={"name": "deep_monte_carlo"},
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", JOB)


def test_runs_are_numbered_upwards(tmp_path: Path):
    base = tmp_path / "runs"
    names = [RunFolder.create(base, JOB).name for _ in range(3)]
    assert names == ["doudizhu-1", "doudizhu-2", "doudizhu-3"]
    (base / "doudizhu-12").mkdir()
    (base / "doudizhu-x").mkdir()
    assert RunFolder.create(base, JOB).name == "doudizhu-13"
    assert RunFolder.create(base, replace(JOB, name="dou")).name == "dou-1"


def test_the_job_is_read_back_whole(run: RunFolder):
    assert run.job() == JOB


def test_a_spoilt_job_is_named_with_its_file_and_key(run: RunFolder):
    job = run.path / "job.yaml"
    job.write_text(job.read_text().replace("block_steps", "block_stops"))
    with pytest.raises(UserError, match=r"job.yaml: actors.block_stops: unknown key; did you mean"):
        run.job()
    job.write_text("a: [")
    with pytest.raises(UserError, match=r"job.yaml: cannot be read"):
        run.job()


def test_a_run_is_found_by_name_and_by_path(run: RunFolder):
    assert RunFolder.find("doudizhu-1", run.path.parent).path == run.path
    assert RunFolder.find(str(run.path), Path("elsewhere")).path == run.path


def test_a_run_that_is_not_there_is_met_with_a_hint(run: RunFolder, tmp_path: Path):
    with pytest.raises(UserError, match="did you mean doudizhu-1"):
        RunFolder.find("doudizu-1", run.path.parent)
    with pytest.raises(UserError, match="troupe train"):
        RunFolder.find("doudizhu-1", tmp_path / "none")
    with pytest.raises(UserError, match=r"no job\.yaml"):
        RunFolder.find(str(tmp_path), run.path.parent)


def test_attempts_are_counted(run: RunFolder):
    assert run.attempts == 0
    for expected in (1, 2, 3):
        with run.attempt() as number:
            assert number == expected
            assert run.status().state == "running"
    assert run.attempts == 3


def test_only_one_launcher_holds_a_run(run: RunFolder):
    with run.attempt():
        assert run.held()
        with pytest.raises(UserError, match=f"is running as pid {os.getpid()}"), run.attempt():
            pass
    assert not run.held()
    assert run.attempts == 1


def test_a_running_run_cannot_be_changed(run: RunFolder):
    with run.attempt():
        with pytest.raises(UserError, match="is running"):
            run.write_job(JOB)
        with pytest.raises(UserError, match="is running"):
            run.choose_checkpoint("step-000000000100")


def test_an_attempt_leaves_word_of_how_it_ended(run: RunFolder):
    with run.attempt():
        pass
    assert run.status().state == "stopped"
    with run.attempt():
        run.set_status("done")
    assert run.status().state == "done"
    with pytest.raises(RunFolderError), run.attempt():
        raise RunFolderError("the disk is full\nmore")
    assert (run.status().state, run.status().message) == ("failed", "the disk is full")


def test_an_identity_is_kept_and_nobody_elses(run: RunFolder):
    other = RunFolder.create(run.path.parent, JOB)
    assert run.identity.startswith("doudizhu-1-")
    assert run.identity == RunFolder(run.path).identity != other.identity


def test_an_older_checkpoint_is_chosen_and_later_ones_are_kept_aside(run: RunFolder):
    for step in (100, 200, 300):
        folder = run.checkpoints / f"step-{step:012d}"
        folder.mkdir()
        (folder / "manifest.json").write_text("{}")
    run.choose_checkpoint(None)
    run.choose_checkpoint("step-000000000300")
    run.choose_checkpoint("step-000000000100")
    assert newest(run.path).name == "step-000000000100"
    assert sorted(path.name for path in (run.checkpoints / "later-0").iterdir()) == [
        "step-000000000200",
        "step-000000000300",
    ]
    with pytest.raises(UserError, match=r"there: step-000000000100$"):
        run.choose_checkpoint("step-000000000300")


def test_an_error_inside_an_attempt_passes_through(run: RunFolder):
    with pytest.raises(FileNotFoundError), run.attempt():
        (run.path / "nothing").read_text()


def test_a_launcher_killed_with_9_leaves_a_run_that_can_be_resumed(run: RunFolder):
    code = (
        "import os, sys; from pathlib import Path; from troupe.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).attempt():\n"
        "    os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], check=False)
    assert done.returncode == -9
    assert run.status().state == "killed"
    with run.attempt() as number:
        assert number == 2


def test_the_status_keeps_when_the_attempt_began(run: RunFolder):
    with run.attempt():
        begun = run.status().started
        run.set_status("failed", "the store is gone")
    status = run.status()
    assert (status.state, status.message, status.started) == (
        "failed",
        "the store is gone",
        begun,
    )
    assert status.pid == os.getpid()


def test_list_shows_every_run(run: RunFolder, capsys: pytest.CaptureFixture[str]):
    base = run.path.parent
    (base / "not-a-run").mkdir()
    RunFolder.create(base, replace(JOB, name="kuhn")).set_status("done", "1.9 M steps")
    assert {found.name for found in list_runs(base)} == {"doudizhu-1", "kuhn-1"}
    assert show(base, as_json=False) == 0
    text = capsys.readouterr().out
    assert "doudizhu-1" in text
    assert "1.9 M steps" in text
    show(base, as_json=True)
    assert {row["run"] for row in json.loads(capsys.readouterr().out)} == {"doudizhu-1", "kuhn-1"}


def test_an_empty_list_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    show(tmp_path / "none", as_json=False)
    assert "troupe train" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_the_users_to_change(tmp_path: Path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="choose a folder"):
        RunFolder.create(tmp_path / "runs" / "deep", JOB)


def test_a_full_disk_is_a_fault_in_one_line_and_harms_nothing(tmp_path: Path):
    full_disk = pytest.raises(RunFolderError, match="no space left on device; make room")
    with full_disk as full, writing(tmp_path / "metrics.jsonl"), open("/dev/full", "w") as file:
        file.write("x")
    assert full.value.exit_code == 1
    target = tmp_path / "status.json"
    write_aside(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_aside(target, "\udc80")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_what_made_a_run_fail_is_told_where_its_state_cannot_be_written(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
):
    def fail(state: str, message: str) -> None:
        raise RunFolderError("status.json: no space left on device")

    def attempt() -> None:
        with run.attempt():
            monkeypatch.setattr(run, "set_status", fail)
            raise TroupeError("the learner did not save")

    with pytest.raises(TroupeError, match="the learner did not save"):
        attempt()


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_a_lost_identity_is_told_with_where_it_is_kept(run: RunFolder, text: str | None):
    file = run.path / "identity"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=r"identity: .*manifest\.json has as `run`"):
        _ = run.identity


def test_a_file_in_the_place_of_the_runs_is_a_mistake(tmp_path: Path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(UserError, match="file exists; choose a folder"):
        RunFolder.create(tmp_path / "runs", JOB)
