"""Where workers go on a Ray cluster: ranks of the learner together, actors apart, each where it has what it needs."""

from collections.abc import Iterable, Mapping
from typing import Any

from troupe.errors import UserError
from troupe.jobs.cluster import living_nodes
from troupe.jobs.spec import Job, PlaceSettings

Resources = Mapping[str, float]
"""By Ray's name for them: CPU, GPU, or one of the cluster's own."""


class Places:
    """What Ray is told of each worker."""

    def __init__(self, actor: Resources, learner: Resources, group: Any) -> None:
        """`group`: Ray's placement group, with a bundle for each rank of the learner."""
        self._actor, self._learner, self._group = actor, learner, group

    @classmethod
    def reserve(cls, job: Job) -> "Places":
        """Reserve room for the learner in the cluster that this process has joined.

        Raises:
            UserError: no node has what a worker asks for.
        """
        import ray

        nodes = [node["Resources"] for node in living_nodes()]
        actor, learner = demands(job, nodes)
        if not job.cluster.autoscaled:
            check(nodes, actor, learner)
        bundles = [dict(learner)] * job.learner.count
        return cls(actor, learner, ray.util.placement_group(bundles, strategy="PACK"))

    def options(self, role: str, slot: int) -> dict[str, object]:
        """Of a worker that is not bound to a node."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if role not in ("learner", "weights"):
            return {**_asked(self._actor), "scheduling_strategy": "SPREAD"}
        # Should the first rank's node be lost, the weights that it published are lost with it: then
        # both begin again, from the checkpoint.
        bundle = PlacementGroupSchedulingStrategy(self._group, slot)
        asked = _asked(self._learner) if role == "learner" else {"num_cpus": 0}
        return {**asked, "scheduling_strategy": bundle}

    def on_node(self, node: str) -> dict[str, object]:
        """Of a worker that belongs to one node, and takes nothing of it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return {
            "num_cpus": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }

    def nodes_for_actors(self) -> list[str]:
        """The nodes that are alive and could have an actor."""
        nodes = living_nodes()
        return [node["NodeID"] for node in nodes if _has(node["Resources"], self._actor)]


def demands(job: Job, nodes: Iterable[Resources]) -> tuple[Resources, Resources]:
    """What an actor asks for, and a rank of the learner; `auto` is a GPU each where there are enough."""
    places, gpus = job.cluster, sum(node.get("GPU", 0.0) for node in nodes)
    auto = "cuda" if gpus >= job.learner.count else "cpu"
    device = job.learner.device if job.learner.device != "auto" else auto
    return _demand(places.actor, job.actors.device), _demand(places.learner, device)


def check(nodes: Iterable[Resources], actor: Resources, learner: Resources) -> None:
    """See that there is a node for each kind of worker.

    Raises:
        UserError: there is none.
    """
    nodes = list(nodes)
    for key, demand in (("learner", learner), ("actor", actor)):
        if not any(_has(node, demand) for node in nodes):
            most = {name: max((n.get(name, 0.0) for n in nodes), default=0.0) for name in demand}
            raise UserError(
                f"cluster.{key}: asks for {_told(demand)}, and no node has that (the most of each on "
                f"one: {_told(most)}); ask for less, add such nodes, or say cluster.autoscaled: true "
                "where they come when they are asked for"
            )


def _demand(place: PlaceSettings, device: str) -> Resources:
    gpus = float(device.startswith("cuda")) if place.gpus is None else place.gpus
    return {"CPU": place.cpus, **({"GPU": gpus} if gpus else {}), **place.resources}


def _has(node: Resources, demand: Resources) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in demand.items())


def _asked(demand: Resources) -> dict[str, object]:
    """A demand as Ray's options."""
    others = {name: amount for name, amount in demand.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": demand["CPU"], "num_gpus": demand.get("GPU", 0.0), "resources": others}


def _told(resources: Resources) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items())
