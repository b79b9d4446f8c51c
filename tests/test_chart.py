"""Whatever the values, the chart's objects are ones that Kubernetes and KubeRay take, and that are safe."""

import base64
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import charts
import jsonschema
import kubernetes_validate
import pytest
import yaml
from charts import (
    SETS,
    Document,
    containers,
    find,
    helm,
    matches,
    of,
    pods,
    ray,
    ray_groups,
    ray_spec,
)

KUBERNETES = "1.34"
EXTENSIONS = ("ray.io", "monitoring.coreos.com")
CRDS = charts.ROOT.parent / "shared" / "kuberay-crds"
SANDBOX = {
    "allowPrivilegeEscalation": False,
    "privileged": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
MOUNTED = ("Secret", "ConfigMap", "PersistentVolumeClaim")
FREE_PORTS = (32768, 60999)
"""From which Linux takes ports that nobody names: ranks of a learner meet on them."""

every_set = pytest.mark.parametrize("name", SETS)


@every_set
def test_lint_has_nothing_to_say(name: str) -> None:
    report = helm.lint(charts.CHART, SETS[name], strict=True, namespace=charts.NAMESPACE)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """The validator would read all of a version's definitions again for every object."""
    with pytest.MonkeyPatch.context() as patch:
        read = cache(kubernetes_validate.utils.schema_contents)
        patch.setattr(kubernetes_validate.utils, "schema_contents", read)
        yield


@cache
def _check_core(text: str) -> None:
    kubernetes_validate.validate(json.loads(text), KUBERNETES, strict=True)


@every_set
def test_kubernetes_takes_every_object(name: str) -> None:
    core = [one for one in of(name) if one["apiVersion"].partition("/")[0] not in EXTENSIONS]
    assert len(core) >= 10
    for one in core:
        _check_core(json.dumps(one))  # what many sets make alike is checked once


def test_the_validator_would_say_so() -> None:
    service = find(of("default"), "Service", "troupe-head")
    service["spec"]["selektor"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, KUBERNETES, strict=True)


def _closed(schema: Document) -> Document:
    """A CRD's schema as an API server takes it: defaults are filled in, and here nothing else is let in."""
    known = schema.get("properties", {})
    made = {**schema, "properties": {key: _closed(value) for key, value in known.items()}}
    if "required" in schema:
        made["required"] = [
            key for key in schema["required"] if "default" not in known.get(key, {})
        ]
    if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            made[key] = _closed(schema[key])
    return made


@pytest.fixture(scope="module")
def crds() -> dict[str, jsonschema.Draft202012Validator]:
    if not CRDS.is_dir():
        pytest.skip(f"KubeRay's CRDs are not at {CRDS}")
    found = {}
    for path in sorted(CRDS.glob("*.yaml")):
        crd = yaml.load(path.read_text(), yaml.CSafeLoader)
        (served,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
        schema = _closed(served["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        found[crd["spec"]["names"]["kind"]] = jsonschema.Draft202012Validator(schema)
    return found


@every_set
def test_kuberay_takes_the_cluster(
    name: str, crds: dict[str, jsonschema.Draft202012Validator]
) -> None:
    one = ray(of(name))
    assert one["apiVersion"] == "ray.io/v1"
    assert [f"{e.json_path}: {e.message}" for e in crds[one["kind"]].iter_errors(one)] == []


def test_a_field_that_kuberay_does_not_know_would_be_found(
    crds: dict[str, jsonschema.Draft202012Validator],
) -> None:
    one = ray(of("default"))
    ray_groups(one)[1]["template"]["spec"]["containers"][0]["imige"] = "x"
    assert len([*crds["RayCluster"].iter_errors(one)]) == 1


@every_set
def test_every_container_is_restricted_and_bounded(name: str) -> None:
    for part, pod in pods(of(name)).items():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
        assert all("hostPath" not in volume for volume in pod["spec"]["volumes"])
        for container in containers(pod):
            assert container["securityContext"] == SANDBOX, part
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][bound].keys(), part
            assert (
                container["resources"]["requests"]["memory"]
                == container["resources"]["limits"]["memory"]
            )


@every_set
def test_images_are_pinned(name: str) -> None:
    images = [c["image"] for pod in pods(of(name)).values() for c in containers(pod)]
    images += [o["image"] for o in [ray_spec(ray(of(name))).get("autoscalerOptions")] if o]
    assert len(images) >= 3
    for image in images:
        assert re.search(r"(:[0-9][A-Za-z0-9._-]*|@sha256:[0-9a-f]{64})$", image), image


@every_set
def test_secrets_are_nowhere_but_in_secrets(name: str) -> None:
    objects = of(name)
    secrets = [one for one in objects if one["kind"] == "Secret"]
    rest = yaml.safe_dump([one for one in objects if one["kind"] != "Secret"])
    held = {value for one in secrets for value in one["data"].values()}
    assert len(held) >= 9 or name == "external-store"
    for value in held:
        plain = base64.b64decode(value).decode()
        assert value not in rest
        assert plain.splitlines()[0] not in rest or plain.startswith("-----BEGIN")
        assert len(plain) >= 48
    for pod in pods(objects).values():
        for variable in (v for c in containers(pod) for v in c.get("env", [])):
            secret = re.search("PASSWORD|TOKEN|AUTH$", variable["name"])
            assert not secret or "secretKeyRef" in variable["valueFrom"], variable


@every_set
def test_every_service_and_budget_chooses_pods(name: str) -> None:
    objects = of(name)
    made = pods(objects).values()
    services = [one for one in objects if one["kind"] == "Service"]
    assert services
    for one in services:
        chosen = [
            pod for pod in made if matches({"matchLabels": one["spec"]["selector"]}, pod["labels"])
        ]
        assert len(chosen) == 1
        names = {port["name"] for c in containers(chosen[0]) for port in c.get("ports", [])}
        assert {port["targetPort"] for port in one["spec"]["ports"]} <= names
    for one in objects:
        if one["kind"] == "PodDisruptionBudget":
            chosen = [pod for pod in made if matches(one["spec"]["selector"], pod["labels"])]
            assert len(chosen) == 1
        if one["kind"] == "StatefulSet":
            assert one["spec"]["serviceName"] in {
                service["metadata"]["name"] for service in services
            }


@every_set
def test_every_probe_points_at_a_port(name: str) -> None:
    probed = 0
    for part, pod in pods(of(name)).items():
        for container in pod["spec"]["containers"]:
            ports = {
                p[key] for p in container.get("ports", []) for key in ("name", "containerPort")
            }
            probes = [
                container[k]
                for k in ("startupProbe", "readinessProbe", "livenessProbe")
                if k in container
            ]
            assert len(probes) == (0 if part == "test" else 3), part
            for probe in probes:
                kinds = [kind for kind in ("httpGet", "grpc", "tcpSocket", "exec") if kind in probe]
                assert len(kinds) == 1
                assert kinds == ["exec"] or probe[kinds[0]]["port"] in ports
                probed += 1
    assert probed >= 6


def _declared(pod: Document, groups: list[Document]) -> set[tuple[int, int]]:
    """Ports and ranges of ports that a pod's programs are told to listen on."""
    found = {
        (p["containerPort"],) * 2 for c in pod["spec"]["containers"] for p in c.get("ports", [])
    }
    for group in groups:
        if group["template"]["metadata"]["labels"] == pod["labels"]:
            given = group["rayStartParams"]
            found |= {(int(given["min-worker-port"]), int(given["max-worker-port"])), FREE_PORTS}
            # What Ray is told to listen on is what the pod says of itself.
            said = {int(value) for key, value in given.items() if key.endswith("-port")}
            assert said <= {port for ports in found for port in ports}
    return found


@every_set
def test_every_port_of_a_network_policy_exists(name: str) -> None:
    objects = of(name)
    groups = ray_groups(ray(objects))
    made = pods(objects).values()
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    assert policies or name == "no-extras"
    for policy in policies:
        chosen = [pod for pod in made if matches(policy["podSelector"], pod["labels"])]
        assert chosen
        for rule in policy.get("ingress") or []:
            assert rule["ports"]
            for pod in chosen:
                assert {
                    (p["port"], p.get("endPort", p["port"])) for p in rule["ports"]
                } <= _declared(pod, groups)
        for rule in policy.get("egress") or []:
            assert rule["ports"]
            for peer in rule.get("to", []):
                called = [
                    pod
                    for pod in made
                    if "podSelector" in peer and matches(peer["podSelector"], pod["labels"])
                ]
                assert called or "podSelector" not in peer
                for pod in called:
                    assert {
                        (p["port"], p.get("endPort", p["port"])) for p in rule["ports"]
                    } <= _declared(pod, groups)


def _may(objects: list[Document], source: str, target: str, port: int) -> bool:
    """Whether one part may call another: it may go out, and the other lets it in."""
    made = pods(objects)

    def allows(me: str, them: str, way: str, side: str) -> bool:
        return any(
            p["port"] <= port <= p.get("endPort", p["port"])
            for one in objects
            if one["kind"] == "NetworkPolicy"
            and matches(one["spec"]["podSelector"], made[me]["labels"])
            for rule in one["spec"].get(way) or []
            for peer in rule.get(side, [])
            if "podSelector" in peer and matches(peer["podSelector"], made[them]["labels"])
            for p in rule["ports"]
        )

    return allows(source, target, "egress", "to") and allows(target, source, "ingress", "from")


def test_who_may_call_whom() -> None:
    objects = of("gpu-pool")
    may = {
        (source, target, port)
        for source in ("head", "actor", "learner", "test", "store", "weights", "gcs")
        for target, port in [("store", 6379), ("gcs", 6379), ("weights", 50051), ("weights", 50052),
                             ("head", 6379), ("head", 8265), ("head", 9090), ("actor", 10500), ("learner", 40000)]
        if _may(objects, source, target, port)
    }  # fmt: skip
    workers = ("head", "actor", "learner")
    assert may == {
        *((w, "store", 6379) for w in (*workers, "test")),
        *((w, "weights", 50051) for w in (*workers, "test")),
        ("head", "gcs", 6379),
        *((w, "head", 6379) for w in workers),
        *((w, "head", 8265) for w in (*workers, "test")),
        *((w, "actor", 10500) for w in workers),
        *((w, "learner", 40000) for w in workers),
    }


def test_nothing_is_open_unless_a_policy_says_so() -> None:
    objects = of("default")
    (closed,) = [
        one["spec"] for one in objects
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "troupe-default"
    ]  # fmt: skip
    assert "ingress" not in closed
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert all(matches(closed["podSelector"], pod["labels"]) for pod in pods(objects).values())


def test_only_the_autoscalers_container_sees_a_token_of_the_cluster() -> None:
    spec = ray_spec(ray(of("gpu-pool")))
    (access,) = [
        v for v in spec["headGroupSpec"]["template"]["spec"]["volumes"] if v["name"] == "api-access"
    ]
    assert "serviceAccountToken" in access["projected"]["sources"][0]
    assert "api-access" in {mount["name"] for mount in spec["autoscalerOptions"]["volumeMounts"]}
    for pod in pods(of("gpu-pool")).values():
        mounted = {mount["name"] for c in containers(pod) for mount in c["volumeMounts"]}
        assert "api-access" not in mounted
    assert spec["autoscalerOptions"]["securityContext"] == SANDBOX
    assert "api-access" not in yaml.safe_dump(of("default"))


def test_gpus_spot_nodes_and_shared_memory() -> None:
    made = pods(of("gpu-pool"))
    learner, actor = made["learner"]["spec"], made["actor"]["spec"]
    assert learner["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert learner["runtimeClassName"] == "nvidia"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in learner[
        "tolerations"
    ]
    assert "nvidia.com/gpu" not in actor["containers"][0]["resources"]["limits"]
    assert any(t["key"] == "cloud.google.com/gke-spot" for t in actor["tolerations"])
    (memory,) = [v["emptyDir"] for v in learner["volumes"] if v["name"] == "shared-memory"]
    assert memory == {"medium": "Memory", "sizeLimit": "64Gi"}
    groups = {group.get("groupName"): group for group in ray_groups(ray(of("gpu-pool")))}
    assert (groups["actor"]["minReplicas"], groups["actor"]["maxReplicas"]) == (4, 64)
    assert groups[None]["rayStartParams"]["num-cpus"] == "0"
    # As the shell in which KubeRay starts Ray reads it.
    assert shlex.split(groups["actor"]["rayStartParams"]["resources"]) == ['{"actor": 1000}']


def test_a_job_is_started_with_its_file_and_goes_on_after_a_failure() -> None:
    objects = of("job-limits")
    one = ray(objects)
    assert one["metadata"]["name"] == "hearts"
    assert shlex.split(one["spec"]["entrypoint"]) == [
        *("troupe", "train", "/etc/troupe/job.yaml", "--name", "hearts", "--ray", "auto"),
        *("--runs", "/runs", "--metrics-host", "0.0.0.0", "--metrics-port", "9090"),
        *("cluster.actor.resources={actor: 1}", "cluster.learner.resources={learner: 1}"),
        *("seed=3", "actors.count=8"),
    ]
    assert "cluster.autoscaled=true" in ray(of("kueue-elastic"))["spec"]["entrypoint"]
    assert (one["spec"]["backoffLimit"], one["spec"]["activeDeadlineSeconds"]) == (0, 60)
    assert one["spec"]["suspend"] is True
    assert ray(of("job"))["spec"]["backoffLimit"] == 2
    held = find(objects, "ConfigMap", "troupe-settings")["data"]["job.yaml"]
    assert yaml.safe_load(held) == yaml.safe_load(
        (charts.ROOT / "examples" / "doudizhu.yaml").read_text()
    )
    mounts = {
        m["mountPath"]: m["name"]
        for m in pods(objects)["head"]["spec"]["containers"][0]["volumeMounts"]
    }
    assert mounts["/etc/troupe"] == "settings"
    assert mounts["/runs"] == "runs"


def test_kueue_gets_a_job_that_ends_by_itself() -> None:
    one = ray(of("kueue"))
    assert one["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert one["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    assert one["spec"]["shutdownAfterJobFinishes"] is True
    assert "enableInTreeAutoscaling" not in ray_spec(one)
    elastic = ray(of("kueue-elastic"))
    assert elastic["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"


def test_ray_keeps_what_it_knows_apart_from_the_replay() -> None:
    objects = of("fault-tolerance")
    options = ray_spec(ray(objects))["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "rediss://troupe-gcs.rl.svc:6379"
    urls = [v["value"] for pod in pods(objects).values() for c in containers(pod)
            for v in c.get("env", []) if v["name"] == "TROUPE_STORE_URL"]  # fmt: skip
    assert len(urls) == 4
    assert all(url.endswith("@troupe-store.rl.svc:6379") for url in urls)
    assert "appendonly yes" in find(objects, "ConfigMap", "troupe-gcs")["data"]["store.conf"]


@pytest.mark.parametrize(("name", "log"), [("default", "yes"), ("replay-only", "no")])
def test_the_store_writes_a_log_where_it_keeps_prompts(name: str, log: str) -> None:
    settings = find(of(name), "ConfigMap", "troupe-store")["data"]["store.conf"].splitlines()
    assert f"appendonly {log}" in settings
    assert ("appendfsync everysec" in settings) == (log == "yes")
    assert "maxmemory-policy noeviction" in settings
    assert "port 0" in settings


def test_each_part_of_a_run_has_a_user_of_its_own_in_the_store() -> None:
    for name, head in (("default", "rediss://control@troupe-store.rl.svc:6379"),
                       ("external-store", "rediss://troupe-control@redis.example.com:6380")):  # fmt: skip
        variables = {
            part: {v["name"]: v for v in pod["spec"]["containers"][0].get("env", [])}
            for part, pod in pods(of(name)).items()
        }
        assert variables["head"]["TROUPE_STORE_URL"]["value"] == head
        for part, user in (("head", "control"), ("actor", "actor"), ("learner", "learner")):
            assert f"{user}@" in variables[part]["TROUPE_STORE_URL"]["value"]
            assert (
                variables[part]["TROUPE_STORE_PASSWORD"]["valueFrom"]["secretKeyRef"]["key"] == user
            )
        assert "TROUPE_STORE_PASSWORD" not in variables["weights"]


@every_set
def test_every_mount_has_its_volume_and_every_name_its_object(name: str) -> None:
    objects = of(name)
    held = {(one["kind"], one["metadata"]["name"]) for one in objects}
    ours = f"{SETS[name].get('fullnameOverride', charts.RELEASE)}-"
    for pod in pods(objects).values():
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]} | {"data"}
        for container in containers(pod):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        for text in re.findall(
            r"(?:secretName|configMap|claimName|secretKeyRef)[^}]*", str(pod["spec"])
        ):
            for found in re.findall(rf"'({re.escape(ours)}[a-z-]+)'", text):
                if found not in str(SETS[name]):  # those are the user's
                    assert held & {(kind, found) for kind in MOUNTED}, found


@every_set
def test_names_are_short_enough_and_their_own(name: str) -> None:
    objects = of(name)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    for kind, text in names:
        # KubeRay appends to a cluster's name, and Kubernetes to a StatefulSet's.
        assert len(text) <= (47 if kind.startswith("Ray") else 63)


def test_helm_test_asks_the_doctor() -> None:
    pod = find(of("default"), "Pod", "troupe-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["containers"][0]["command"][:2] == ["troupe", "doctor"]


def test_the_dashboard_asks_for_numbers_that_the_page_on_metrics_has() -> None:
    asked = set(
        re.findall(r"troupe_[a-z_]+", (charts.CHART / "files" / "dashboard.json").read_text())
    )
    page = (charts.ROOT / "docs" / "metrics.md").read_text()
    told = set(re.findall(r"`(troupe_[a-z_]+)`", page))
    assert len(asked) >= 15
    assert asked <= told


def test_notes_say_what_to_type_next() -> None:
    for name, word in (("default", "troupe submit"), ("job", "get rayjob troupe --watch")):
        made = charts.chart().render(SETS[name], name=charts.RELEASE, namespace=charts.NAMESPACE)
        (notes,) = [text for path, text in made.items() if path.endswith("NOTES.txt")]
        assert word in notes
        assert "-n rl" in notes


def test_the_package_holds_what_the_chart_needs(tmp_path: Path) -> None:
    archive = helm.package(charts.CHART, destination=tmp_path)
    helm.expand(tmp_path / "whole", archive)
    held = {
        str(path.relative_to(tmp_path / "whole" / "troupe"))
        for path in (tmp_path / "whole").rglob("*.*")
    }
    assert {"values.schema.json", "README.md", "files/users.sh", "files/dashboard.json"} <= held
    assert not any(path.startswith("ci/") or path.endswith(".py") for path in held)
