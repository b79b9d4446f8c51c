"""What a rank of a job's learner trains, and on what."""

from collections.abc import Mapping

import torch

from troupe.jobs.spec import Job
from troupe.policies import Spaces
from troupe.policies.devices import resolve_device, resolve_precision
from troupe_learners import algorithms
from troupe_learners.ranks import Ranks
from troupe_learners.trainee import Hardware, Trainee


def device_of(job: Job, rank: int) -> torch.device:
    """Where a rank of several computes: a GPU of its own, or the CPU."""
    device = resolve_device(job.learner.device)
    several = device.type == "cuda" and job.learner.count > 1
    # On a cluster Ray shows each rank its own alone.
    return torch.device("cuda", rank % torch.cuda.device_count()) if several else device


def create_trainees(job: Job, policies: Mapping[str, Spaces], ranks: Ranks) -> dict[str, Trainee]:
    """Every policy that is learning, by name.

    Raises:
        UserError: as `Trainee`.
    """
    device = device_of(job, ranks.rank)
    precision = resolve_precision(job.learner.precision, device)
    hardware = Hardware(device, precision, ranks, divided=job.learner.sharding == "full")
    return {
        name: Trainee(name, spaces, job.network, algorithms.load(job.algorithm), hardware, job.seed)
        for name, spaces in policies.items()
    }
