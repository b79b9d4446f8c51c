"""Runs on a Ray cluster, sent there as jobs by its dashboard's HTTP interface.

A run is a Ray job of its name; each later attempt at it is another one, `NAME@2`, `NAME@3`. So a name
that is taken is Ray's to refuse, and two resumes at once cannot both begin.
"""

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

from troupe.errors import UserError
from troupe.jobs import places
from troupe.jobs.spec import Job
from troupe.jobs.targets import Finding, Order, RunState, TargetError, package
from troupe.jobs.targets.web import AnswerError, Web, dial

RUN, RUNS, ATTEMPT, GRACE = "troupe_run", "troupe_runs", "troupe_attempt", "troupe_grace"
"""What a job's metadata hold."""
OLDEST = (2, 50)
JOB_FILE = "job.yaml"
_STATES = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "done",
    "STOPPED": "stopped",
    "FAILED": "failed",
}
_SPARE_SECONDS = 30
"""That Ray waits longer for a launcher to end than the launcher for its learner."""
_QUIET_SECONDS = 1.0
_HELPER_SECONDS = 90.0
_AGENT_SECONDS = 30.0
_NO_AGENT = "No available agent"
_LAST_LINES = 20


def token_of(file: Path | None) -> str:
    """The cluster's token, where Ray itself looks for it, or in a file; empty where there is none.

    Raises:
        UserError: the file cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH") or file
    path = Path(named or "~/.ray/auth_token").expanduser()
    if named is None and not path.is_file():
        return ""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the cluster's token cannot be read: {error}") from None


def open_web(url: str, token: str) -> Web:
    """The way to a dashboard."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Web(url, dial(url.rstrip("/")), headers)


@dataclass(frozen=True)
class RayTarget:
    """See `Target`."""

    name: str
    web: Web
    shared: str | None
    """The folder for runs, which all nodes share."""

    def check(self, job: Job) -> None:
        """See `Target`."""
        self._check_version()
        self._shared()
        if job.cluster.autoscaled:
            return
        nodes = self._nodes()
        places.check(nodes, *places.demands(job, nodes))

    def render(self, order: Order) -> str:
        """See `Target`."""
        return json.dumps(self._body(order), indent=2) + "\n"

    def submit(self, order: Order) -> None:
        """See `Target`."""
        body = self._body(order)
        uri = self._upload({JOB_FILE: order.text.encode()}, order.extras)
        body["runtime_env"]["working_dir"] = uri
        try:
            self._start(body)
        except AnswerError as error:
            if "already exists" in error.text:
                raise UserError(
                    f"--name: {self.name} has a run {order.name} already; choose another name, or go "
                    f"on with it: troupe resume {order.name} --to {self.name}"
                ) from None
            raise

    def resume(self, run: str, overrides: Sequence[str]) -> None:
        """See `Target`."""
        attempts = self._attempts(run)
        last = _state(attempts[-1])
        if not last.over:
            raise UserError(f"{run}: is {last.state}; there is nothing to go on with")
        about = dict(_about(attempts[-1]))
        runs, number = about[RUNS], last.attempt + 1
        entry = ["troupe", "resume", run, *overrides, "--ray", "auto", "--runs", runs]
        about[ATTEMPT] = str(number)
        body = _body(f"{run}@{number}", entry, about)
        environment = attempts[-1].get("runtime_env")
        if isinstance(environment, dict) and "working_dir" in environment:
            body["runtime_env"]["working_dir"] = environment["working_dir"]
        self._start(body)

    def runs(self) -> list[RunState]:
        """See `Target`."""
        newest = {attempts[-1]["submission_id"]: attempts[-1] for attempts in self._all().values()}
        return sorted(map(_state, newest.values()), key=lambda state: (state.started, state.run))

    def state(self, run: str) -> RunState:
        """See `Target`."""
        return _state(self._attempts(run)[-1])

    def progress(self, run: str) -> str:
        """See `Target`: the newest line of its log that has figures."""
        job = self._attempts(run)[-1]
        if not _begun(job):
            return ""
        return newest_figures(self.web, job)

    def log(self, run: str, begin: int) -> Iterator[bytes]:
        """See `Target`."""
        job = self._attempts(run)[-1]
        if not _begun(job):
            yield b""
            return
        yield from said_by(self.web, job, begin)

    def stop(self, run: str) -> None:
        """See `Target`."""
        job = self._attempts(run)[-1]
        if not _state(job).over:
            self.web.call("POST", f"/api/jobs/{_id(job)}/stop")

    def scale(self, run: str, actors: int) -> None:
        """See `Target`."""
        job = self._attempts(run)[-1]
        if _state(job).state != "running":
            raise UserError(f"{run}: is {_state(job).state}, it has no actors to change")
        said = self._ask(
            ["troupe", "scale", run, "--actors", str(actors), "--runs", _about(job)[RUNS]]
        )
        if not said.good:
            raise UserError(said.told)

    def remove(self, run: str) -> None:
        """See `Target`."""
        for job in self._attempts(run):
            self.web.call("DELETE", f"/api/jobs/{_id(job)}")

    def examine(self) -> Iterator[Finding]:
        """See `Target`."""
        version = self._check_version()
        yield Finding("Ray", True, f"version {version}")
        nodes = self._nodes()
        cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
        yield Finding("nodes", bool(nodes), f"{len(nodes)}, with {cpus:g} CPUs and {gpus:g} GPUs")
        if self.shared is None:
            yield Finding(
                "runs", False, "no folder is named; say --runs or put it into targets.yaml"
            )
            return
        yield self._ask(["troupe", "doctor", "--runs", self.shared])

    # How it is done.

    def _check_version(self) -> str:
        try:
            answer = self.web.get("/api/version")
        except AnswerError as error:
            raise _refused(self.name, error) from None
        version = str(answer.get("ray_version", "")) if isinstance(answer, dict) else ""
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST:
            raise UserError(
                f"--to: {self.name} has Ray {version or 'of no known version'}; "
                f"{'.'.join(map(str, OLDEST))} or later is needed there"
            )
        return version

    def _nodes(self) -> list[places.Resources]:
        answer = self._get("/api/v0/nodes?detail=1&limit=10000")
        found = _inside(answer, "data", "result", "result")
        nodes = found if isinstance(found, list) else []
        return [node["resources_total"] for node in nodes if node.get("state") == "ALIVE"]

    def _all(self) -> dict[str, list[dict[str, object]]]:
        """The jobs that are attempts at runs, in order, by run."""
        answer = self._get("/api/jobs/")
        found: dict[str, list[dict[str, object]]] = {}
        for job in answer if isinstance(answer, list) else []:
            if RUN in _about(job):
                found.setdefault(_about(job)[RUN], []).append(job)
        return {run: sorted(jobs, key=_number) for run, jobs in found.items()}

    def _attempts(self, run: str) -> list[dict[str, object]]:
        known = self._all()
        if run not in known:
            there = ", ".join(known) or "none"
            raise UserError(f"{run}: {self.name} has no such run; there: {there}")
        return known[run]

    def _get(self, path: str) -> object:
        try:
            return self.web.get(path)
        except AnswerError as error:
            raise _refused(self.name, error) from None

    def _upload(self, files: Mapping[str, bytes], extras: Sequence[Path]) -> str:
        """Put files where every node gets them from; their URI."""
        data = package.pack(files, extras)
        name = package.name(data)
        self._check_version()
        self.web.call("PUT", f"/api/packages/gcs/{name}", data, "application/octet-stream")
        return f"gcs://{name}"

    def _body(self, order: Order) -> "_Body":
        runs, grace = self._shared(), str(int(order.job.cluster.grace))
        entry = ["troupe", "train", JOB_FILE, "--ray", "auto", "--runs", runs, "--name", order.name]
        return _body(order.name, entry, {RUN: order.name, RUNS: runs, ATTEMPT: "1", GRACE: grace})

    def _start(self, body: "_Body") -> None:
        """Start a job; a head that has just begun has nobody yet to start it."""
        deadline = time.monotonic() + _AGENT_SECONDS
        while True:
            try:
                self.web.call("POST", "/api/jobs/", body)
            except AnswerError as error:
                if _NO_AGENT not in error.text or time.monotonic() > deadline:
                    raise _refused(self.name, error) from None
                time.sleep(0.5)
            else:
                return

    def _ask(self, entry: Sequence[str]) -> Finding:
        """Run a command in the cluster, and what it said."""
        submission = f"troupe-asks-{time.time_ns():x}"
        self._start(_body(submission, entry, {}))
        path = f"/api/jobs/{submission}"
        deadline = time.monotonic() + _HELPER_SECONDS
        while True:
            job = self._get(path)
            assert isinstance(job, dict)
            state = _STATES.get(str(job["status"]), "pending")
            if state in ("done", "failed", "stopped"):
                break
            if time.monotonic() > deadline:
                raise TargetError(f"{self.name}: `{shlex.join(entry)}` there takes too long")
            time.sleep(0.2)
        said = _inside(self._get(f"{path}/logs"), "logs")
        self.web.call("DELETE", path)
        lines = str(said or "").strip().splitlines()
        told = [line for line in lines if not line.startswith("Running entrypoint")]
        if any("not found" in line for line in told[:2]):
            return Finding("troupe", False, "not installed in the cluster, or not on its PATH")
        return Finding("in the cluster", state == "done", "\n".join(told[-_LAST_LINES:]))

    def _shared(self) -> str:
        if self.shared is None:
            raise UserError(
                "--runs: missing; the folder for runs, which all nodes of the cluster share (or `runs` "
                "of the target in targets.yaml)"
            )
        return self.shared


def said_by(web: Web, job: Mapping[str, object], begin: int) -> Iterator[bytes]:
    """A job's log from the byte `begin` on, and what comes; an empty piece after a quiet second."""
    # Ray counts lines, from the end: what is known already is left out here.
    left = begin
    for piece in web.stream(_log_path("stream", job, -1), _QUIET_SECONDS):
        if piece and left >= len(piece):
            left -= len(piece)
            continue
        yield piece[left:]
        left = 0 if piece else left


def newest_figures(web: Web, job: Mapping[str, object]) -> str:
    """The newest line of a job's log that says how far it has come."""
    text = b"".join(web.stream(_log_path("file", job, _LAST_LINES), _QUIET_SECONDS))
    lines = [line.strip() for line in text.decode(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if "step " in line), "")


class _Body(TypedDict):
    """What a job's submission says."""

    submission_id: str
    entrypoint: str
    metadata: dict[str, str]
    runtime_env: dict[str, object]


def _body(submission: str, entry: Sequence[str], about: Mapping[str, str]) -> _Body:
    wait = str(int(about.get(GRACE, "0")) + _SPARE_SECONDS)
    return {
        "submission_id": submission,
        "entrypoint": shlex.join(entry),
        "metadata": dict(about),
        "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": wait}},
    }


def _refused(name: str, error: AnswerError) -> Exception:
    """What a cluster that does not let us in is told as."""
    remedy = "give its token in RAY_AUTH_TOKEN, or a file with it in RAY_AUTH_TOKEN_PATH"
    if error.status == 401:
        return UserError(f"--to: {name} wants a token; {remedy}")
    if error.status == 403:
        return UserError(f"--to: {name} refuses this token; {remedy}")
    if error.status == 404:
        return UserError(f"--to: {name}: {error}; is this a Ray dashboard with the job interface?")
    return error


def _state(job: Mapping[str, object]) -> RunState:
    message = str(job.get("message") or "")
    state = _STATES.get(str(job["status"]), "unknown")
    return RunState(
        run=_about(job)[RUN],
        state=state,
        attempt=_number(job),
        message=_brief(message) if state in ("failed", "pending") else "",
        started=_seconds(job.get("start_time")),
        ended=_seconds(job.get("end_time")),
    )


def _brief(message: str) -> str:
    """Of what Ray says of a job, the line that tells a person most: the last one of its log."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("troupe: ")] or lines
    return told[-1] if told else ""


def _begun(job: Mapping[str, object]) -> bool:
    """Whether its launcher was started, and has a log."""
    return bool(job.get("driver_node_id"))


def _about(job: Mapping[str, object]) -> Mapping[str, str]:
    about = job.get("metadata")
    return about if isinstance(about, dict) else {}


def _number(job: Mapping[str, object]) -> int:
    return int(_about(job).get(ATTEMPT, "1"))


def _id(job: Mapping[str, object]) -> str:
    return quote(str(job["submission_id"]), safe="")


def _log_path(kind: str, job: Mapping[str, object], lines: int) -> str:
    """Of the newest lines of a job's log, or of all with -1; of kind `stream`, also of those to come."""
    where = f"node_id={job['driver_node_id']}&submission_id={_id(job)}&lines={lines}"
    return f"/api/v0/logs/{kind}?{where}{'&interval=0.5' if kind == 'stream' else ''}"


def _seconds(milliseconds: object) -> float:
    return float(milliseconds) / 1000 if isinstance(milliseconds, int | float) else 0.0


def _inside(answer: object, *keys: str) -> object:
    for key in keys:
        answer = answer.get(key) if isinstance(answer, dict) else None
    return answer
