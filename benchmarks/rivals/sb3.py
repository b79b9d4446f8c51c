"""Stable-Baselines3: the speed of PPO, A2C and DDPG, and how DDPG learns HalfCheetah.

sb3.py ppo|a2c|ddpg SECONDS
sb3.py cheetah STEPS SEED
"""

import json
import sys
import time

import gymnasium
import numpy as np
import torch
from stable_baselines3 import A2C, DDPG, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

WARM_UP = 5.0
FOREVER = 10**9


def vector(name: str, count: int) -> DummyVecEnv:
    """Environments made one by one, in this process."""
    return DummyVecEnv([lambda: Monitor(gymnasium.make(name))] * count)


def ppo() -> BaseAlgorithm:
    """CleanRL's settings: 4 environments, 128 steps, 4 epochs, 4 minibatches."""
    return PPO(
        "MlpPolicy",
        vector("CartPole-v1", 4),
        n_steps=128,
        batch_size=128,
        n_epochs=4,
        learning_rate=2.5e-4,
        ent_coef=0.01,
        device="cpu",
    )


def a2c() -> BaseAlgorithm:
    """Eight environments, and otherwise SB3's own settings."""
    return A2C("MlpPolicy", vector("CartPole-v1", 8), device="cpu")


def ddpg(name: str = "Pendulum-v1", starts: int = 256, seed: int | None = None) -> DDPG:
    """256x256, batches of 256, one update a step."""
    env = vector(name, 1)
    noise = NormalActionNoise(
        np.zeros(env.action_space.shape), 0.1 * np.ones(env.action_space.shape)
    )
    return DDPG(
        "MlpPolicy",
        env,
        batch_size=256,
        learning_starts=starts,
        train_freq=1,
        gradient_steps=1,
        action_noise=noise,
        learning_rate=1e-3 if name == "Pendulum-v1" else 3e-4,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )


class Clock(BaseCallback):
    """Counts steps between the end of the warm-up and the end of the run."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.began = time.perf_counter()
        self.first: tuple[float, float, int] | None = None
        self.last = (0.0, 0.0, 0)

    def _on_step(self) -> bool:
        now = time.perf_counter()
        if self.first is None:
            if now - self.began > WARM_UP:
                self.first = (now, time.process_time(), self.num_timesteps)
            return True
        self.last = (now, time.process_time(), self.num_timesteps)
        return now - self.first[0] < self.seconds


def speed(algorithm: BaseAlgorithm, seconds: float) -> dict[str, float]:
    """Environment steps trained on per second, and CPU-seconds per second."""
    clock = Clock(seconds)
    algorithm.learn(FOREVER, callback=clock)
    assert clock.first is not None
    wall, cpu, steps = (b - a for a, b in zip(clock.first, clock.last, strict=True))
    return {"steps": steps / wall, "cpu": cpu / wall, "wall": wall}


class Curve(BaseCallback):
    """The returns of episodes as they are played."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.steps.append(self.num_timesteps)
                self.returns.append(float(info["episode"]["r"]))
        return True


def cheetah(steps: int, seed: int) -> dict[str, object]:
    """The mean return of 100 greedy episodes after training, and the curve until then."""
    algorithm, curve = ddpg("HalfCheetah-v5", starts=25_000, seed=seed), Curve()
    algorithm.learn(steps, callback=curve)
    mean, _ = evaluate_policy(algorithm, vector("HalfCheetah-v5", 1), n_eval_episodes=100)
    return {"return": float(mean), "steps": curve.steps, "returns": curve.returns}


def main() -> None:
    """See the module."""
    what, *rest = sys.argv[1:]
    # Two threads are slower than one on the small networks, and faster on those of 256x256.
    torch.set_num_threads(1 if what in ("ppo", "a2c") else 2)
    if what == "cheetah":
        print(json.dumps(cheetah(int(rest[0]), int(rest[1]))))
    else:
        made = {"ppo": ppo, "a2c": a2c, "ddpg": ddpg}[what]()
        print(json.dumps(speed(made, float(rest[0]))))


if __name__ == "__main__":
    main()
