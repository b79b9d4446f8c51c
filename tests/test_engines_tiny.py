"""Our own engine: every shape of model that it reads itself, and others by way of transformers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import FAST, OTHER, reference, save

from troupe.errors import UserError
from troupe_actors.engines import EngineSettings, Request, Sampling, tiny
from troupe_actors.engines.tiny.drawing import cut, uniform
from troupe_actors.engines.tiny.llama_weights import shape_of

PROMPTS = [np.arange(1, 1 + n, dtype=np.int32) * 11 % 250 for n in (4, 1, 12, 7, 20)]


@pytest.mark.parametrize("name", [*FAST, *OTHER])
def test_any_model_is_sampled_as_it_scores(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path, name, (FAST | OTHER)[name])
    settings = EngineSettings(slots=3, max_length=64)
    assert (shape_of(folder.config, settings.max_length) is not None) == (name in FAST)
    engine = tiny.create(folder, settings)
    engine.submit([Request(i, p, i, Sampling(9 + i)) for i, p in enumerate(PROMPTS)])
    done = {c.id: c for _ in range(60) for c in engine.step()}
    model = reference(folder)
    for i, prompt in enumerate(PROMPTS):
        assert len(done[i].tokens) == 9 + i
        both = torch.from_numpy(np.concatenate([prompt, done[i].tokens])).long()
        with torch.inference_mode():
            scores = model(both[None]).logits[0, len(prompt) - 1 : -1].log_softmax(1)
        expected = scores.gather(1, both[len(prompt) :, None]).squeeze(1)
        np.testing.assert_allclose(done[i].log_prob, expected.numpy(), atol=1e-4)


def test_uniform_numbers_are_those_of_splitmix64() -> None:
    # The first two outputs for the seed 0, as published with the generator.
    golden = np.array([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4], np.uint64)
    drawn = uniform(np.zeros(2, np.uint64), np.array([0, 1]))
    np.testing.assert_array_equal(drawn, (golden >> np.uint64(40)) / 2.0**24)


def test_a_cut_keeps_the_fewest_tokens_that_are_likely_enough() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).repeat(4, 1)
    top_k = torch.tensor([[4], [2], [3], [4]])
    top_p = torch.tensor([[1.0], [1.0], [0.5], [0.05]])
    expected = [
        [0.1, 0.4, 0.2, 0.3],
        [0.0, 4 / 7, 0.0, 3 / 7],
        [0.0, 4 / 7, 0.0, 3 / 7],  # of 0.9, 0.4 is less than half
        [0.0, 1.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(cut(probs, top_k, top_p), torch.tensor(expected))


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    folder = save(tmp_path, "qwen3", FAST["qwen3"])
    request = Request(0, PROMPTS[2], 0, Sampling(1, temperature=0.0))
    drawn = []
    for precision in ("fp32", "bf16"):
        engine = tiny.create(
            folder, EngineSettings(slots=2, max_length=64, device="cpu", precision=precision)
        )
        engine.submit([request])
        drawn.append(engine.step()[0].log_prob)
    assert drawn[0] == pytest.approx(drawn[1], abs=0.1)


def test_a_cache_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    folder = save(tmp_path, "llama", FAST["llama"])
    with pytest.raises(UserError, match=r"engine\.slots: 1000000000 sequences .* GiB"):
        tiny.create(folder, EngineSettings(slots=10**9, max_length=128, device="cpu"))
