"""How soon an engine samples with new weights: from publishing 100 MB to its first token of them.

Server, learner and actor are processes of their own. The actor follows the server as one in a run
does, with an engine that goes on sampling meanwhile; its node's folder is not the server's, so that
everything crosses the loopback twice. The version of the token is the engine's own.
"""

import statistics
import tempfile
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from weights import SPAWN, process, serve_weights

from troupe.jobs.setting import Connections
from troupe.language.models import load_model, open_folder, own_tensors
from troupe.language.settings import EngineSettings
from troupe.language.small import SmallSettings, build
from troupe.metrics import Metrics
from troupe.weights.client import WeightsClient
from troupe_actors import engines
from troupe_actors.engines import Engine, Request, Sampling
from troupe_actors.following import Following

POLICY, TOKEN = "agent", "benchmark"
SHAPE = SmallSettings(hidden=512, layers=8, heads=8, context=64)
"""25.4 million parameters: 102 MB."""
ROWS = 16
ROUNDS = 9


def measure() -> tuple[float, float]:
    """Median seconds, and the MB that were published."""
    torch.set_num_threads(1)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        scratch = Path(name)
        build(scratch / "model", SHAPE, seed=1)
        model = load_model(open_folder(scratch / "model"))
        tensors = {n: t.detach().numpy() for n, t in own_tensors(model).items()}
        with process(serve_weights, scratch / "served", None) as address:
            seconds = _rounds(str(address), scratch, tensors)
    return statistics.median(seconds), sum(t.nbytes for t in tensors.values()) / 1e6


def _rounds(address: str, scratch: Path, tensors: dict[str, np.ndarray]) -> list[float]:
    """Seconds of each round; the actor's process ends with its pipe."""
    learner = WeightsClient(lambda: address, token=TOKEN, folder=scratch / "learner")
    ours, theirs = SPAWN.Pipe()
    actor = SPAWN.Process(target=act, args=(address, scratch, theirs), daemon=True)
    with closing(learner), closing(ours):
        learner.publish(POLICY, 0, tensors)
        actor.start()
        theirs.close()
        ours.recv()
        seconds = []
        for version in range(1, ROUNDS + 3):  # two are warm-up
            begun = time.monotonic()
            learner.publish(POLICY, version, tensors)
            while (told := ours.recv())[0] < version:
                pass
            assert told[0] == version
            seconds.append(told[1] - begun)
    actor.join(5)
    actor.terminate()
    return seconds[2:]


def act(address: str, scratch: Path, pipe: Connection) -> None:
    """The actor's process: tells each version, and when the first token of it was there."""
    torch.set_num_threads(1)
    settings = EngineSettings(slots=ROWS, max_length=SHAPE.context, device="cpu", precision="fp32")
    engine = engines.create(open_folder(scratch / "model"), settings)
    client = WeightsClient(lambda: address, token=TOKEN, folder=scratch / "actor")
    ends = SimpleNamespace(
        weights=client, metrics=Metrics(), reporter=SimpleNamespace(stop=Event())
    )
    take = lambda weights: engine.load(weights.version, weights.tensors)  # noqa: E731
    following = Following(cast(Connections, ends), {POLICY: take})
    with closing(client), closing(following):
        following.first()
        told = -1
        while not pipe.poll():
            following.refresh()
            _keep_busy(engine)
            done = engine.step()
            if following.versions[POLICY] > told:
                told = following.versions[POLICY]
                pipe.send((told, time.monotonic()))
            for one in done:  # no token is of other weights than those that were told
                assert int(one.version.max()) == told, (one.version, told)


def _keep_busy(engine: Engine) -> None:
    """As many sequences as there is room for, always."""
    first = time.monotonic_ns()
    sampling, prompt = Sampling(max_tokens=SHAPE.context - 8), np.arange(8, dtype=np.int32)
    count = ROWS - engine.pending
    engine.submit([Request(first + i, prompt, first + i, sampling) for i in range(count)])
