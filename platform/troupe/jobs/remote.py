"""What a person asks for of runs elsewhere, and of runs here alike: submit, status, logs, stop, ..."""

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import yaml

from troupe import journal
from troupe.errors import UserError
from troupe.jobs import load
from troupe.jobs.doctor import examine_here
from troupe.jobs.tails import Tails
from troupe.jobs.targets import ENDED, Finding, Order, RunState, Target, TargetError
from troupe.jobs.targets.following import Said, follow, listen
from troupe.jobs.targets.opening import open_target
from troupe.runs import RunFolder

FAILED = 3
"""Exit code: the command did what it should; the run failed."""
WATCH_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_HERE = {"killed": "failed", "new": "pending"}


def submit(options: argparse.Namespace) -> int:
    """Send a job to a target; the exit code."""
    target = open_target(options.to, options.runs)
    data = load.read_yaml(options.job)
    for override in options.overrides:
        load.put(data, override)
    job = load.read(options.job, options.overrides, here=False)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    if options.dry_run:
        print(target.render(Order(options.name or job.name, job, text, options.extras)), end="")
        return 0
    target.check(job)
    name = options.name or _free_name(target, job.name)
    target.submit(Order(name, job, text, options.extras))
    _say(options, {"run": name, "target": target.name}, f"{name} is on its way to {target.name}")
    if options.follow:
        return _follow(options, target, name, "")
    if not options.json:
        print(f"Look:   troupe status {name} --to {shlex.quote(target.name)}")
        print(f"Listen: troupe logs -f {name} --to {shlex.quote(target.name)}")
    return 0


def list_runs(options: argparse.Namespace) -> int:
    """Print the runs of a target; the exit code."""
    states = open_target(options.to).runs()
    if options.json:
        print(json.dumps([asdict(state) for state in states]))
        return 0
    for state in states:
        print(_line(state))
    if not states:
        print(f"no runs on {options.to} yet; send one with `troupe submit JOB --to {options.to}`")
    return 0


def status(options: argparse.Namespace) -> int:
    """Print how a run stands, once or until it is over; the exit code."""
    before = ""
    while True:
        try:
            state, progress = _look(options)
        except TargetError as error:
            if not options.watch:
                raise
            print(f"troupe: {error}; looking again", file=sys.stderr)
        else:
            text = f"{_line(state)}\n  {progress}".rstrip()
            if text != before:
                _say(options, {**asdict(state), "progress": progress}, text)
            before = text
            if not options.watch or state.state in ENDED:
                return FAILED if state.state == "failed" else 0
        time.sleep(WATCH_SECONDS)


def logs(options: argparse.Namespace) -> int:
    """Print what a run says; the exit code."""
    if options.to is None:
        return _logs_here(options)
    target = open_target(options.to)
    if options.follow:
        return _follow(options, target, options.run, options.role)
    show = _printer(options, options.role)
    listen(target, options.run, show)
    return 0


def stop(options: argparse.Namespace) -> int:
    """Have a run save and end, and wait until it did; the exit code."""
    if options.to is None:
        _stop_here(RunFolder.find(options.run, options.runs))
    else:
        open_target(options.to).stop(options.run)
    deadline = time.monotonic() + options.grace
    while not (state := _look_briefly(options)).over:
        if time.monotonic() > deadline:
            raise TargetError(
                f"{options.run}: has not ended in {options.grace:g} s; it is saving still"
            )
        time.sleep(_LOOK_SECONDS)
    _say(options, asdict(state), _line(state))
    return FAILED if state.state == "failed" else 0


def resume(options: argparse.Namespace) -> int:
    """Go on with a run of a target; the exit code."""
    target = open_target(options.to)
    target.resume(options.run, options.overrides)
    state = target.state(options.run)
    _say(options, asdict(state), f"{options.run} goes on, attempt {state.attempt}")
    return 0


def down(options: argparse.Namespace) -> int:
    """End a run and forget it on its target; the exit code. Its folder stays."""
    stop(options)
    if options.to is not None:
        open_target(options.to).remove(options.run)
    return 0


def scale(options: argparse.Namespace) -> int:
    """Have another number of actors; the exit code."""
    if options.actors < 1:
        raise UserError(f"--actors: {options.actors}; at least one")
    if options.to is not None:
        open_target(options.to).scale(options.run, options.actors)
    else:
        _scale_here(RunFolder.find(options.run, options.runs), options.actors)
    _say(
        options,
        {"run": options.run, "actors": options.actors},
        f"actors asked for: {options.actors}",
    )
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Look at all that a run needs, here or on a target; the exit code is 1 where something is missing."""
    good = True
    findings: list[Finding] = []
    looked = (
        examine_here(options.runs or Path("runs"))
        if options.target is None
        else open_target(options.target, options.runs and str(options.runs)).examine()
    )
    for finding in looked:
        good &= finding.good
        findings.append(finding)
        if not options.json:
            print(f"{'ok ' if finding.good else 'NO '} {finding.what + ':':16} {finding.told}")
    if options.json:
        print(json.dumps({"good": good, "findings": [asdict(finding) for finding in findings]}))
    return 0 if good else 1


def _follow(options: argparse.Namespace, target: Target, run: str, role: str) -> int:
    try:
        state = follow(target, run, _printer(options, role))
    except KeyboardInterrupt:
        again = f"troupe logs -f {run} --to {shlex.quote(target.name)}"
        print(f"\nDetached; {run} goes on. Listen again: {again}", file=sys.stderr)
        return 0
    print(f"troupe: {_line(state)}", file=sys.stderr)
    return FAILED if state.state == "failed" else 0


def _printer(options: argparse.Namespace, role: str) -> Callable[[Said], None]:
    def show(said: Said) -> None:
        if role and said.role != role:
            return
        if options.json:
            print(json.dumps({"worker": said.worker, "text": said.text}), flush=True)
        else:
            print(f"{said.worker} | {said.text}" if said.worker else said.text, flush=True)

    return show


def _look(options: argparse.Namespace) -> tuple[RunState, str]:
    """How a run stands, and how far it has come."""
    if options.to is None:
        folder = RunFolder.find(options.run, options.runs)
        newest = journal.last_line(folder.metrics)
        return _state_here(folder), f"step {newest['step']:,}" if newest else ""
    target = open_target(options.to)
    state = target.state(options.run)
    try:
        return state, target.progress(options.run)
    except TargetError:  # its log cannot be had now: how it stands is known nevertheless
        return state, ""


def _look_briefly(options: argparse.Namespace) -> RunState:
    if options.to is None:
        return _state_here(RunFolder.find(options.run, options.runs))
    return open_target(options.to).state(options.run)


def _state_here(folder: RunFolder) -> RunState:
    status = folder.status()
    state = _HERE.get(status.state, status.state)
    message = status.message or ("its launcher vanished" if status.state == "killed" else "")
    ended = status.changed if state in ENDED else 0.0
    return RunState(folder.name, state, folder.attempts, message, status.started, ended)


def _stop_here(folder: RunFolder) -> None:
    """Tell the launcher on this machine; nothing where the run is over."""
    status = folder.status()
    if status.state != "running":
        return
    try:
        os.kill(status.pid, signal.SIGTERM)
    except ProcessLookupError:
        raise UserError(
            f"{folder.path}: its launcher runs on another machine; stop it there, or with --to TARGET"
        ) from None


def _scale_here(folder: RunFolder, actors: int) -> None:
    if folder.job().schedule == "lockstep":
        raise UserError(
            f"--actors: {folder.name} is in lockstep, where what is learned depends on how many actors "
            "there are; start a new run with actors.count"
        )
    if folder.status().state != "running":
        raise UserError(
            f"{folder.name}: is not running; troupe resume {folder.name} actors.count=N"
        )
    folder.want_actors(actors)


def _logs_here(options: argparse.Namespace) -> int:
    folder = RunFolder.find(options.run, options.runs)
    show = _printer(options, options.role)
    tails = Tails(folder.logs, whole=True)
    while True:
        over = _state_here(folder).over
        for worker, text in tails.poll():
            show(Said(worker, text))
        if over or not options.follow:
            return FAILED if options.follow and _state_here(folder).state == "failed" else 0
        time.sleep(_LOOK_SECONDS)


def _free_name(target: Target, job: str) -> str:
    taken = {state.run for state in target.runs()}
    number = 1
    while f"{job}-{number}" in taken:
        number += 1
    return f"{job}-{number}"


def _line(state: RunState) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.started)) if state.started else ""
    parts = [state.run, state.state, f"attempt {state.attempt}", when, state.message]
    return "  ".join(part for part in parts if part)


def _say(options: argparse.Namespace, data: object, text: str) -> None:
    print(json.dumps(data) if options.json else text, flush=True)
