"""An upgrade keeps what must not change: passwords, certificates, disks, and what chooses pods."""

from collections.abc import Iterator

import charts
import kubernetes_api
import pytest
from charts import Document, helm

VALUES = charts.example("gpu-pool")


class Cluster:
    """Where a release is installed and upgraded, as far as Helm looks at it."""

    def __init__(self, config: "helm.Config", secrets: dict[str, Document]) -> None:
        self._config = config
        self.secrets = secrets

    def apply(self, values: dict[str, object], revision: int) -> list[Document]:
        """What a revision is; its Secrets are in the cluster from now on."""
        made = self._config.render(
            charts.chart(), values, name=charts.RELEASE, namespace=charts.NAMESPACE,
            revision=revision, is_install=revision == 1, is_upgrade=revision > 1,
        )  # fmt: skip
        objects = [*charts.documents(made)]
        self.secrets.update(
            {one["metadata"]["name"]: one for one in objects if one["kind"] == "Secret"}
        )
        return objects


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    secrets: dict[str, Document] = {}
    with (
        kubernetes_api.serving(secrets) as kubeconfig,
        helm.Config(kubeconfig_content=kubeconfig, namespace=charts.NAMESPACE) as config,
    ):
        yield Cluster(config, secrets)


def _secrets(objects: list[Document]) -> dict[str, Document]:
    return {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "Secret"}


def test_secrets_are_made_once_and_kept(cluster: Cluster) -> None:
    first = cluster.apply(VALUES, 1)
    before = _secrets(first)
    assert len(before) == 7
    later = {**VALUES, "actors": {**VALUES["actors"], "replicas": 16}, "images": {"tag": "9.9.9"}}
    assert _secrets(cluster.apply(later, 2)) == before
    for one in first:
        if one["kind"] in ("Secret", "PersistentVolumeClaim"):
            assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_two_releases_have_different_secrets(cluster: Cluster) -> None:
    one = _secrets(cluster.apply(VALUES, 1))
    cluster.secrets.clear()
    other = _secrets(cluster.apply(VALUES, 1))
    for name, data in one.items():
        assert all(other[name][key] != value for key, value in data.items())


def test_a_lost_certificate_is_made_anew_with_its_partner(cluster: Cluster) -> None:
    before = _secrets(cluster.apply(VALUES, 1))
    del cluster.secrets["troupe-client-tls"]
    after = _secrets(cluster.apply(VALUES, 2))
    for name in ("troupe-server-tls", "troupe-client-tls"):
        assert after[name]["tls.crt"] != before[name]["tls.crt"]
    assert after["troupe-server-tls"]["ca.crt"] == after["troupe-client-tls"]["ca.crt"]
    assert after["troupe-store"] == before["troupe-store"]


def test_a_key_that_a_new_version_of_the_chart_needs_is_added(cluster: Cluster) -> None:
    before = _secrets(cluster.apply(VALUES, 1))["troupe-store"]
    del cluster.secrets["troupe-store"]["data"]["probe"]
    after = _secrets(cluster.apply(VALUES, 2))["troupe-store"]
    assert {key: after[key] for key in ("control", "learner", "actor")} == {
        key: before[key] for key in ("control", "learner", "actor")
    }
    assert after["probe"]


def test_a_new_version_restarts_only_what_it_changes(cluster: Cluster) -> None:
    first, second = (
        cluster.apply(VALUES, 1),
        cluster.apply({**VALUES, "images": {"tag": "9.9.9"}}, 2),
    )
    for kind, name in (("StatefulSet", "troupe-store"), ("StatefulSet", "troupe-gcs")):
        before, after = (charts.find(objects, kind, name)["spec"] for objects in (first, second))
        assert before == after
    for objects in (first, second):
        weights = charts.find(objects, "Deployment", "troupe-weights")["spec"]
        assert weights["selector"]["matchLabels"].keys() == {
            "app.kubernetes.io/part-of", "app.kubernetes.io/instance", "app.kubernetes.io/component",
        }  # fmt: skip


def test_the_stores_disk_outlives_its_release() -> None:
    for name in ("troupe-store", "troupe-gcs"):
        spec = charts.find(charts.of("fault-tolerance"), "StatefulSet", name)["spec"]
        assert spec["persistentVolumeClaimRetentionPolicy"] == {
            "whenDeleted": "Retain",
            "whenScaled": "Retain",
        }
        assert spec["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOnce"]
