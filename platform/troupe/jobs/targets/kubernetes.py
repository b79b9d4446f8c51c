"""Runs on Kubernetes: each is a RayJob that the chart makes, with a Ray cluster of its own.

How a run stands is read from its RayJob. Its log, and the word to stop, go to the dashboard of its
Ray cluster, by way of the API server.
"""

import base64
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, cast

import yaml

from troupe.errors import UserError
from troupe.jobs.spec import Job
from troupe.jobs.targets import Finding, Order, RunState, TargetError
from troupe.jobs.targets.book import TargetSettings, split
from troupe.jobs.targets.chart import render
from troupe.jobs.targets.kube_api import Document, Objects, open_api, problems
from troupe.jobs.targets.ray_jobs import newest_figures, said_by
from troupe.jobs.targets.web import AnswerError, Web

RAY = "ray.io/v1"
INSTANCE = "app.kubernetes.io/instance"
"""The label that all objects of a run carry."""
ATTEMPT = "troupe/attempt"
KEPT = "helm.sh/resource-policy"
"""Annotation of what stays when a run is removed: its secrets and its folder."""
_DASHBOARD = 8265
_GONE_SECONDS = 120.0
_ENDED = {"SUCCEEDED": "done", "STOPPED": "stopped", "FAILED": "failed"}
_NEEDS = (("ray.io", "rayjobs"), ("", "secrets"), ("", "services"), ("", "configmaps"))
_OWN = (
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("v1", "PersistentVolumeClaim"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "Deployment"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
)
"""The kinds of what the chart makes beside the RayJob."""


@dataclass
class KubernetesTarget:
    """See `Target`."""

    name: str
    settings: TargetSettings

    @cached_property
    def _place(self) -> tuple[str, str]:
        return split(self.settings.kubernetes or self.name)

    @cached_property
    def _objects(self) -> Objects:
        namespace, context = self._place
        return Objects(open_api(context, self.name), namespace)

    def check(self, job: Job) -> None:
        """See `Target`."""
        for finding in self._look():
            if not finding.good:
                raise UserError(f"--to: {self.name}: {finding.told}")

    def render(self, order: Order) -> str:
        """See `Target`: the manifests."""
        made = render(self.settings, order, self._place[0])
        return yaml.safe_dump_all(made, sort_keys=False)

    def submit(self, order: Order) -> None:
        """See `Target`."""
        made = render(self.settings, order, self._place[0])
        job = made[-1]
        if self._objects.get(RAY, "RayJob", order.name) is not None:
            raise self._taken(order.name)
        for one in made[:-1]:
            self._objects.create(one)  # what is there already stays: secrets, and the runs' folder
        if not self._objects.create(job):
            raise self._taken(order.name)

    def resume(self, run: str, overrides: Sequence[str]) -> None:
        """See `Target`: the same RayJob once more, which goes on with the run of its name."""
        if overrides:
            raise UserError(
                f"{overrides[0]}: on Kubernetes a run goes on as it is; start a new one for another job"
            )
        job, state = self._find(run), self.state(run)
        if not state.over:
            raise UserError(f"{run}: is {state.state}; there is nothing to go on with")
        about = job["metadata"]
        notes = {**about.get("annotations", {}), ATTEMPT: str(state.attempt + 1)}
        kept = {"name": run, "labels": about.get("labels", {}), "annotations": notes}
        spec = {key: value for key, value in job["spec"].items() if key != "jobId"}
        self._delete_job(run)
        again = {"apiVersion": RAY, "kind": "RayJob", "metadata": kept, "spec": spec}
        if not self._objects.create(again):
            raise UserError(f"{run}: somebody else has it go on already")

    def runs(self) -> list[RunState]:
        """See `Target`."""
        found = [_state(job) for job in self._objects.list(RAY, "RayJob")]
        return sorted(found, key=lambda state: (state.started, state.run))

    def state(self, run: str) -> RunState:
        """See `Target`; of one that waits, what for."""
        job = self._find(run)
        state = _state(job)
        cluster = job.get("status", {}).get("rayClusterName")
        if state.state != "pending" or not cluster:
            return state
        pods = self._objects.list("v1", "Pod", f"ray.io/cluster={cluster}")
        why = next(problems(pods), state.message)
        return RunState(run, state.state, state.attempt, why, state.started)

    def progress(self, run: str) -> str:
        """See `Target`."""
        web, job = self._ray_job(run)
        return newest_figures(web, job) if job.get("driver_node_id") else ""

    def log(self, run: str, begin: int) -> Iterator[bytes]:
        """See `Target`."""
        web, job = self._ray_job(run)
        if not job.get("driver_node_id"):
            yield b""
            return
        yield from said_by(web, job, begin)

    def stop(self, run: str) -> None:
        """See `Target`."""
        if not self.state(run).over:
            web, job = self._ray_job(run)
            web.call("POST", f"/api/jobs/{job['submission_id']}/stop")

    def scale(self, run: str, actors: int) -> None:
        """See `Target`."""
        raise UserError(
            f"--actors: on Kubernetes: kubectl exec into the head of {run}, and there: troupe scale "
            f"{run} --actors {actors} --runs /runs"
        )

    def remove(self, run: str) -> None:
        """See `Target`."""
        self._delete_job(run)
        for api, kind in _OWN:
            for one in self._objects.list(api, kind, f"{INSTANCE}={run}"):
                if KEPT not in (one["metadata"].get("annotations") or {}):
                    self._objects.delete(api, kind, one["metadata"]["name"])

    def examine(self) -> Iterator[Finding]:
        """See `Target`."""
        yield from self._look()

    # How it is done.

    def _look(self) -> Iterator[Finding]:
        namespace = self._place[0]
        self._objects.list(RAY, "RayJob")
        yield Finding("KubeRay", True, f"{RAY} is there")
        fields = self._job_fields()
        if fields is not None:
            token = "authOptions" in fields
            told = "knows tokens" if token else "knows no tokens; KubeRay 1.6 or later is needed"
            yield Finding("RayJob", token, told)
        lacking = [
            plural for group, plural in _NEEDS if not self._objects.may("create", group, plural)
        ]
        told = f"no right to create {', '.join(lacking)} in {namespace}; ask for it"
        yield Finding("rights", not lacking, told if lacking else f"enough in {namespace}")

    def _job_fields(self) -> Mapping[str, object] | None:
        """What a RayJob can say of its cluster; none where we may not look."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/rayjobs.ray.io"
        try:
            made = cast(Document, self._objects.web.get(path))
        except AnswerError:
            return None
        versions = {one["name"]: one for one in made["spec"]["versions"]}
        schema: Any = versions["v1"]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        fields: Mapping[str, object] = schema["properties"]["rayClusterSpec"]["properties"]
        return fields

    def _find(self, run: str) -> Document:
        job = self._objects.get(RAY, "RayJob", run)
        if job is None:
            there = ", ".join(state.run for state in self.runs()) or "none"
            raise UserError(f"{run}: {self.name} has no such run; there: {there}")
        return job

    def _taken(self, run: str) -> UserError:
        return UserError(
            f"--name: {self.name} has a run {run} already; choose another name, or go on with it: "
            f"troupe resume {run} --to {self.name}"
        )

    def _ray_job(self, run: str) -> tuple[Web, Mapping[str, object]]:
        """The way to the run's Ray cluster, and what that says of the run's job."""
        status = self._find(run).get("status", {})
        cluster, submission = status.get("rayClusterName"), status.get("jobId")
        made = self._objects.get(RAY, "RayCluster", cluster) if cluster else None
        service = made and made.get("status", {}).get("head", {}).get("serviceName")
        if not made or not service or not submission:
            raise TargetError(f"{run}: its Ray cluster is not there, or not yet")
        web = self._objects.service(service, _DASHBOARD, self._token(made))
        return web, cast(Mapping[str, object], web.get(f"/api/jobs/{submission}"))

    def _token(self, cluster: Document) -> dict[str, str]:
        """What tells a Ray cluster who we are; the API server keeps the usual header for itself."""
        name = cluster["spec"].get("authOptions", {}).get("secretName")
        secret = self._objects.get("v1", "Secret", name) if name else None
        if secret is None:
            return {}
        token = base64.b64decode(secret["data"]["auth_token"]).decode()
        return {"X-Ray-Authorization": f"Bearer {token}"}

    def _delete_job(self, run: str) -> None:
        self._objects.delete(RAY, "RayJob", run)
        deadline = time.monotonic() + _GONE_SECONDS
        while self._objects.get(RAY, "RayJob", run) is not None:
            if time.monotonic() > deadline:
                raise TargetError(f"{run}: its RayJob is not gone after {_GONE_SECONDS:.0f} s")
            time.sleep(0.5)


def _state(job: Document) -> RunState:
    status = job.get("status") or {}
    told = status.get("jobDeploymentStatus", "")
    before = int((job["metadata"].get("annotations") or {}).get(ATTEMPT, "1"))
    if told in ("Complete", "Failed"):
        state = _ENDED.get(status.get("jobStatus", ""), "failed")
    else:
        state = "running" if told == "Running" else "pending"
    retries = int(status.get("failed") or 0) - (state == "failed")
    message = status.get("message") or status.get("reason") or ""
    return RunState(
        run=job["metadata"]["name"],
        state=state,
        attempt=before + max(0, retries),
        message="" if state in ("running", "done", "stopped") else " ".join(message.split())[:300],
        started=_seconds(status.get("startTime")),
        ended=_seconds(status.get("endTime")),
    )


def _seconds(when: str | None) -> float:
    return datetime.fromisoformat(when).timestamp() if when else 0.0
