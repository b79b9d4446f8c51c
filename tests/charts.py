"""The chart as tests see it: rendered by Helm itself, document by document."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this machine")

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "troupe"
RELEASE, NAMESPACE = "troupe", "rl"
Document = dict[str, "object"]

JOB = {"mode": "job", "job": {"spec": (ROOT / "examples" / "doudizhu.yaml").read_text()}}
DIGEST = "sha256:" + hashlib.sha256(b"an image").hexdigest()


def example(name: str) -> dict[str, object]:
    """The values of an example."""
    return yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())


SETS: dict[str, dict[str, object]] = {
    "default": {},
    "laptop": example("laptop"),
    "gpu-pool": example("gpu-pool"),
    "external-store": example("external-store"),
    "job": JOB,
    "job-limits": {
        "mode": "job",
        "job": {**JOB["job"], "name": "hearts", "attempts": 1, "deadlineSeconds": 60, "suspend": True,
                "overrides": ["seed=3", "actors.count=8"]},
    },
    "kueue": {**JOB, "kueue": {"queue": "research", "priorityClass": "low"}},
    "kueue-elastic": {**JOB, "kueue": {"queue": "research", "elastic": True},
                      "ray": {"autoscaling": {"enabled": True}}},
    "fault-tolerance": {"ray": {"faultTolerance": {"enabled": True}, "upgradeStrategy": "Recreate"}},
    "fault-tolerance-external": {
        "ray": {"faultTolerance": {"enabled": True, "externalAddress": "rediss://gcs.example.com:6379",
                                   "existingSecret": "gcs"}},
    },
    "no-extras": {
        "weights": {"enabled": False}, "learners": {"enabled": False},
        "networkPolicy": {"enabled": False}, "disruptionBudgets": {"enabled": False},
        "security": {"serviceAccount": {"create": False}},
    },
    "openshift": {"security": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "replay-only": {"store": {"roles": ["replay"], "storage": {"storageClass": "fast"}}},
    "weights-on-disk": {"weights": {"storage": {"medium": "disk", "size": "20Gi", "storageClass": "fast"}}},
    "rollouts": {"rollouts": {"enabled": True, "runtimeClassName": "nvidia"},
                 "ray": {"autoscaling": {"enabled": True, "idleSeconds": 30}}},
    "digests": {
        "images": {"registry": "registry.example.com/rl", "pullSecrets": ["registry"],
                   "control": {"digest": DIGEST}, "actor": {"digest": DIGEST},
                   "learner": {"digest": DIGEST}, "store": {"digest": DIGEST}},
    },
    "named": {
        "fullnameOverride": "a-name-that-is-exactly-forty-letters-lo", "commonLabels": {"team": "rl"},
        "commonAnnotations": {"owner": "rl@example.com"},
        "security": {"serviceAccount": {"name": "runner", "annotations": {"role": "arn"}}},
        "runs": {"existingClaim": "runs", "keep": False},
        "env": [{"name": "HF_HOME", "value": "/data/hf"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-text\n",
        ],
    },
    "monitoring": {"metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                               "dashboard": {"enabled": True}}},
}  # fmt: skip
"""Sets of values that are all rendered and checked."""


@cache
def chart() -> "helm.Chart":
    """The chart, loaded once."""
    return helm.Chart.load(CHART)


def render(values: Mapping[str, object]) -> list[Document]:
    """All objects that Helm makes of the chart with these values."""
    made = chart().render(dict(values), name=RELEASE, namespace=NAMESPACE)
    return [*documents(made)]


def documents(made: Mapping[str, str]) -> Iterator[Document]:
    """The objects in what Helm made, template by template."""
    for path, text in sorted(made.items()):
        if not path.endswith(".txt"):
            yield from (found for found in yaml.safe_load_all(text) if found)


@cache
def _rendered(name: str) -> str:
    return json.dumps(render(SETS[name]))


def of(name: str) -> list[Document]:
    """What the named set of values makes; rendered once, a copy each time."""
    return json.loads(_rendered(name))


def find(objects: list[Document], kind: str, name: str) -> Document:
    """The one object of that kind and name."""
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def pods(objects: list[Document]) -> dict[str, Document]:
    """Every pod that will be made, `{labels, spec}`, by the part that it is."""
    found = {}
    for one in objects:
        for template in _templates(one):
            labels = template["metadata"]["labels"]
            found[labels["app.kubernetes.io/component"]] = {
                "labels": labels,
                "spec": template["spec"],
            }
    return found


def _templates(one: Document) -> Iterator[Document]:
    match one["kind"]:
        case "Pod":
            yield one
        case "Deployment" | "StatefulSet":
            yield one["spec"]["template"]
        case "RayCluster" | "RayJob":
            yield from (group["template"] for group in ray_groups(one))


def ray_spec(one: Document) -> Document:
    """The Ray cluster in a RayCluster or RayJob."""
    return one["spec"] if one["kind"] == "RayCluster" else one["spec"]["rayClusterSpec"]


def ray_groups(one: Document) -> list[Document]:
    """Its head and its groups of workers."""
    return [ray_spec(one)["headGroupSpec"], *(ray_spec(one)["workerGroupSpecs"] or [])]


def ray(objects: list[Document]) -> Document:
    """The RayCluster or RayJob."""
    (found,) = [one for one in objects if one["kind"] in ("RayCluster", "RayJob")]
    return found


def containers(pod: Document) -> list[Document]:
    """Init containers too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def matches(selector: Document, labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes chooses these labels."""
    wanted = selector.get("matchLabels", {}).items()
    if any(labels.get(key) != value for key, value in wanted):
        return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In"
        if labels.get(rule["key"]) not in rule["values"]:
            return False
    return True
