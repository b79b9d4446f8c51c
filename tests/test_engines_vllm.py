"""What we make of vLLM's answers, where a double stands for it. The contract suite runs the real one."""

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from troupe.errors import TroupeError
from troupe_actors.engines import EngineSettings, Request, Sampling
from troupe_actors.engines._arrivals import Arrivals
from troupe_actors.engines.vllm import VllmEngine


@dataclass
class Double:
    """Samples 10, 11, 12... for every request; 12 is a stop token if the request says so."""

    added: list[tuple[str, SimpleNamespace, SimpleNamespace]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    calls: deque[str] = field(default_factory=deque)
    log_prob: float = -0.5

    def add_request(self, name: str, prompt: SimpleNamespace, params: SimpleNamespace) -> None:
        self.added.append((name, prompt, params))
        self.counts[name] = 0

    def step(self) -> list[SimpleNamespace]:
        return [self._sampled(name) for name in list(self.counts)]

    def abort_request(self, names: Sequence[str]) -> None:
        for name in names:
            del self.counts[name]

    def collective_rpc(self, method: str, args: tuple[object, ...]) -> None:
        self.calls.append(method)

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> None:
        self.calls.append(f"reset {reset_running_requests}")

    def _sampled(self, name: str) -> SimpleNamespace:
        params = next(params for added, _, params in self.added if added == name)
        token = 10 + self.counts[name]
        self.counts[name] += 1
        reason = "stop" if token in params.stop_token_ids else None
        if reason is None and self.counts[name] == params.max_tokens:
            reason = "length"
        if reason:
            del self.counts[name]
        delta = SimpleNamespace(
            token_ids=[token],
            logprobs=[{token: SimpleNamespace(logprob=self.log_prob)}],
            finish_reason=reason,
        )
        return SimpleNamespace(request_id=name, outputs=[delta], finished=reason is not None)


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm, params = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    vllm.TokensPrompt = vllm.SamplingParams = SimpleNamespace
    params.RequestOutputKind = SimpleNamespace(DELTA="delta")
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)


def make(double: Double, **settings: object) -> VllmEngine:
    arrivals = Arrivals({"w": torch.zeros(2)}, None)
    return VllmEngine(double, arrivals, 50, EngineSettings(slots=2, max_length=8, **settings))


def requests(count: int, sampling: Sampling) -> list[Request]:
    return [Request(i, np.arange(3, dtype=np.int32), i, sampling) for i in range(count)]


def test_tokens_are_told_by_the_weights_that_chose_them() -> None:
    double = Double()
    engine = make(double)
    engine.submit(requests(3, Sampling(4, stop=(12,))))
    assert engine.step() == []
    engine.load(5, {"w": np.ones(2, np.float32)})
    assert engine.step() == []
    first = engine.step()
    assert [c.id for c in first] == [0, 1]
    assert [first[0].tokens.tolist(), first[0].version.tolist()] == [[10, 11, 12], [0, 5, 5]]
    assert (first[0].finish, first[0].log_prob.tolist()) == ("stop", [-0.5] * 3)
    assert engine.pending == 1
    engine.step()
    assert [prompt.cache_salt for _, prompt, _ in double.added] == ["0", "0", "5"]
    assert list(double.calls) == ["take_weights"]


def test_no_more_run_than_there_is_room_for() -> None:
    double = Double()
    engine = make(double)
    engine.submit(requests(5, Sampling(100)))
    engine.step()
    assert (len(double.added), engine.pending) == (2, 5)
    engine.cancel({1, 4, 9})
    assert engine.pending == 3
    engine.step()
    assert [name for name, _, _ in double.added] == ["0", "1", "2"]
    done = {c.id: c for _ in range(12) for c in engine.step()}
    assert sorted(done) == [0, 2, 3]
    assert all((c.finish, len(c.tokens)) == ("length", 5) for c in done.values())


def test_running_sequences_are_read_again_where_asked() -> None:
    double = Double()
    make(double, reread=True).load(1, {"w": np.ones(2, np.float32)})
    assert list(double.calls) == ["take_weights", "reset True"]


def test_foreign_weights_never_reach_it() -> None:
    double = Double()
    with pytest.raises(TroupeError, match="weights: "):
        make(double).load(1, {"v": np.ones(2, np.float32)})
    assert not double.calls


def test_an_output_that_is_not_finite_is_an_error() -> None:
    engine = make(Double(log_prob=float("nan")))
    engine.submit(requests(1, Sampling(4)))
    with pytest.raises(TroupeError, match="not finite"):
        engine.step()
