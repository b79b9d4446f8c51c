"""RLlib: the speed of PPO on CartPole-v1 with CleanRL's settings.

rllib.py SECONDS
"""

import json
import sys
import time

import psutil
import ray
from ray.rllib.algorithms.ppo import PPOConfig

WARM_UP = 3
"""Iterations before the clock starts."""


def cpu() -> float:
    """CPU seconds of this process and all it started."""
    me = psutil.Process()
    total = 0.0
    for process in [me, *me.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    """See the module."""
    seconds = float(sys.argv[1])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=1, num_envs_per_env_runner=4, rollout_fragment_length=128)
        .training(
            train_batch_size=512,
            minibatch_size=128,
            num_epochs=4,
            lr=2.5e-4,
            gamma=0.99,
            lambda_=0.95,
            clip_param=0.2,
            entropy_coeff=0.01,
            vf_loss_coeff=0.5,
            grad_clip=0.5,
        )
    )
    algorithm = config.build_algo()
    for _ in range(WARM_UP):
        result = algorithm.train()
    key = "num_env_steps_sampled_lifetime"
    began, used, first = time.perf_counter(), cpu(), result[key]
    while time.perf_counter() - began < seconds:
        result = algorithm.train()
    wall = time.perf_counter() - began
    steps = (result[key] - first) / wall
    print(json.dumps({"steps": steps, "cpu": (cpu() - used) / wall, "wall": wall}))


if __name__ == "__main__":
    main()
