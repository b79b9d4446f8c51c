"""Runs sent to Kubernetes: the real kubectl and Helm, before an API server of the test's own."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kube_server import TOKEN, KubeServer, serving

from troupe.cli import main

CHART = Path(__file__).parent.parent / "helm" / "troupe"
JOB = {
    "name": "small",
    "environment": {"name": "CartPole-v1"},
    "algorithm": {"name": "ppo"},
    "evaluation": {"every": 0},
}
TO = ["--to", "pool"]
SECRET = {
    "metadata": {"name": "ray-token"},
    "data": {"auth_token": base64.b64encode(TOKEN.encode()).decode()},
}
CLUSTER = {
    "metadata": {"name": "small-1-abc"},
    "spec": {"authOptions": {"mode": "token", "secretName": "ray-token"}},
    "status": {"head": {"serviceName": "small-1-abc-head-svc"}},
}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeServer]:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    targets = {"pool": {"kubernetes": "lab@toy", "chart": str(CHART)}}
    (tmp_path / "targets.yaml").write_text(yaml.safe_dump(targets))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with serving(tmp_path) as server:
        yield server


def begin(kube: KubeServer, **status: object) -> dict[str, object]:
    """A RayJob that is there already, and its Ray cluster."""
    told = {"jobId": "job-1", "rayClusterName": "small-1-abc", **status}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": "small-1",
            "labels": {"app.kubernetes.io/instance": "small-1"},
            "uid": "7",
        },
        "spec": {"entrypoint": "troupe train", "jobId": "job-1"},
        "status": told,
    }
    kube.objects["ray.io/v1", "rayjobs", "small-1"] = job
    kube.objects["ray.io/v1", "rayclusters", "small-1-abc"] = dict(CLUSTER)
    kube.objects["v1", "secrets", "ray-token"] = dict(SECRET)
    return job


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.skipif(not CHART.is_dir(), reason="the chart is not there")
def test_a_job_is_sent_as_the_chart_has_it_and_its_name_is_then_taken(
    kube: KubeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("helm_python", reason="Helm, helm-python-sdk, is not installed")
    assert (
        main(["submit", "job.yaml", "actors.count=3", *TO, "--name", "small-1", "--dry-run"]) == 0
    )
    printed = [*yaml.safe_load_all(capsys.readouterr().out)]
    assert not kube.objects
    assert main(["submit", "job.yaml", "actors.count=3", *TO, "--json"]) == 0
    assert told(capsys) == {"run": "small-1", "target": "pool"}
    assert len(kube.objects) == len(printed)
    job = kube.objects["ray.io/v1", "rayjobs", "small-1"]
    assert "--name small-1" in job["spec"]["entrypoint"]
    files = [one for (_, plural, _), one in kube.objects.items() if plural == "configmaps"]
    assert any(
        yaml.safe_load(text).get("actors") == {"count": 3}
        for one in files
        for name, text in one["data"].items()
        if name == "job.yaml"
    )
    assert main(["submit", "job.yaml", *TO, "--name", "small-1"]) == 2
    assert "has a run small-1 already" in capsys.readouterr().err
    (Path("values.yaml")).write_text("actorz: {}")
    targets = {"pool": {"kubernetes": "lab@toy", "chart": str(CHART), "values": ["values.yaml"]}}
    Path("targets.yaml").write_text(yaml.safe_dump(targets))
    assert main(["submit", "job.yaml", *TO, "--name", "other"]) == 2
    error = capsys.readouterr().err
    assert "actorz" in error
    assert error.count("\n") == 1


def test_a_run_is_looked_at_listened_to_and_stopped_by_way_of_its_own_dashboard(
    kube: KubeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    job = begin(kube, jobDeploymentStatus="Running", jobStatus="RUNNING", failed=1)
    kube.said = (
        b"   0:10  training begins\n   0:11  actor-0 | hello\n   0:20  step 120, 9 steps/s\n"
    )
    assert main(["status", "small-1", *TO, "--json"]) == 0
    state = told(capsys)
    assert (state["state"], state["attempt"]) == ("running", 2)
    assert state["progress"] == "0:20  step 120, 9 steps/s"
    assert main(["logs", "small-1", *TO, "--role", "actor"]) == 0
    assert capsys.readouterr().out == "actor-0 | hello\n"

    assert main(["stop", "small-1", *TO, "--grace", "0"]) == 1
    assert "POST /api/jobs/job-1/stop" in kube.asked
    assert "has not ended in 0 s" in capsys.readouterr().err
    job["status"] = {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}
    assert main(["stop", "small-1", *TO, "--json"]) == 0
    assert told(capsys)["state"] == "stopped"

    assert main(["resume", "small-1", *TO, "--json"]) == 0
    assert told(capsys)["attempt"] == 2
    again = kube.objects["ray.io/v1", "rayjobs", "small-1"]
    assert again["spec"] == {"entrypoint": "troupe train"}
    assert "status" not in again


def test_a_run_that_failed_is_said_with_its_reason_and_removed_but_for_what_is_kept(
    kube: KubeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(kube, jobDeploymentStatus="Failed", jobStatus="FAILED", failed=3, message="it\nended")
    mine = {"app.kubernetes.io/instance": "small-1"}
    keep = {"helm.sh/resource-policy": "keep"}
    for kind, about in (
        ("configmaps", {"labels": mine}),
        ("persistentvolumeclaims", {"labels": mine, "annotations": keep}),
        ("services", {"labels": {"app.kubernetes.io/instance": "other"}}),
    ):
        kube.objects["v1", kind, "one"] = {"metadata": {"name": "one", **about}}
    assert main(["status", "small-1", *TO, "--json"]) == 3
    state = told(capsys)
    assert (state["state"], state["attempt"], state["message"]) == ("failed", 3, "it ended")
    assert main(["down", "small-1", *TO]) == 0
    left = {plural for _, plural, _ in kube.objects}
    assert left == {"persistentvolumeclaims", "services", "rayclusters", "secrets"}


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        (
            {
                "containerStatuses": [
                    {"image": "x/y", "state": {"waiting": {"reason": "ErrImagePull"}}}
                ]
            },
            "image x/y cannot be pulled",
        ),
        (
            {"conditions": [{"reason": "Unschedulable", "message": "0/3 nodes: nvidia.com/gpu"}]},
            "no node has room for learner: 0/3 nodes: nvidia.com/gpu",
        ),
    ],
)
def test_what_a_run_waits_for_is_said(
    kube: KubeServer, pod: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(kube, jobDeploymentStatus="Initializing")
    named = {"name": "learner", "labels": {"ray.io/cluster": "small-1-abc"}}
    kube.objects["v1", "pods", "learner"] = {"metadata": named, "status": pod}
    assert main(["status", "small-1", *TO, "--json"]) == 0
    state = told(capsys)
    assert state["state"] == "pending"
    assert str(state["message"]).startswith(says)


def test_what_is_missing_on_a_cluster_is_said_in_a_line(
    kube: KubeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*command: str) -> str:
        assert main([*command]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert main(["doctor", "pool"]) == 0
    assert "KubeRay" in capsys.readouterr().out
    assert "small-9: pool has no such run; there: none" in refused("status", "small-9", *TO)
    kube.allowed = False
    assert "ask for rights in the namespace lab" in refused("submit", "job.yaml", *TO)
    del kube.resources["ray.io/v1"]
    assert "KubeRay is not installed" in refused("doctor", "pool")
    assert "nowhere" in refused("list", "--to", "lab@nowhere")
    assert "did you mean pool?" in refused("list", "--to", "pol")
