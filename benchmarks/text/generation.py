"""Generation alone, log-probabilities included: the tiny engine, and transformers as it comes."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from troupe.language.models import open_folder
from troupe.language.settings import EngineSettings
from troupe.language.small import SmallSettings, build
from troupe_actors import engines
from troupe_actors.engines import Request, Sampling

PROMPTS, TOKENS = 64, 32
CONTEXT = 64
AT_LEAST = {"Llama": 1.5, "GPT-2": 1.05}
"""By shape: how many times faster the engine must be. GPT-2 stands for any that is no Llama."""
ROUNDS = 9

Prompts = list[NDArray[np.int32]]
Generate = Callable[[], float]
"""Seconds until every prompt has its tokens."""


def measure(shape: str) -> tuple[float, float]:
    """Tokens per second of the engine and of transformers, medians of alternating rounds."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _build(shape, folder)
        random = np.random.default_rng(1)
        # Of several lengths, as prompts are.
        sizes = random.integers(4, 17, PROMPTS)
        prompts = [random.integers(0, 256, size, np.int32) for size in sizes]
        sides = (_engine(folder, prompts), _transformers(folder, prompts))
        for side in sides:
            side()
        seconds = [[side() for side in sides] for _ in range(ROUNDS)]
    ours, theirs = (
        PROMPTS * TOKENS / statistics.median(side) for side in zip(*seconds, strict=True)
    )
    return ours, theirs


def _build(shape: str, folder: Path) -> None:
    """A small model of random weights, with a tokenizer."""
    settings = SmallSettings(context=CONTEXT)
    build(folder, settings, seed=1)
    if shape == "GPT-2":  # in place of the Llama, beside its tokenizer
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=settings.vocabulary,
                n_positions=CONTEXT,
                n_embd=settings.hidden,
                n_layer=settings.layers,
                n_head=settings.heads,
                bos_token_id=None,
                eos_token_id=None,
            )
        ).save_pretrained(folder)


def _engine(folder: Path, prompts: Prompts) -> Generate:
    opened = open_folder(folder)
    settings = EngineSettings(slots=PROMPTS, max_length=CONTEXT, device="cpu", precision="fp32")
    engine = engines.create(opened, settings)
    sampling = Sampling(max_tokens=TOKENS)

    def generate() -> float:
        begun = time.perf_counter()
        engine.submit([Request(i, prompt, i, sampling, i) for i, prompt in enumerate(prompts)])
        done = []
        while engine.pending:
            done += engine.step()
        seconds = time.perf_counter() - begun
        assert sum(len(one.log_prob) for one in done) == PROMPTS * TOKENS
        return seconds

    return generate


def _transformers(folder: Path, prompts: Prompts) -> Generate:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    longest = max(map(len, prompts))
    tokens = torch.zeros((PROMPTS, longest), dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.from_numpy(prompt).long()
        mask[row, longest - len(prompt) :] = 1

    @torch.inference_mode()
    def generate() -> float:
        begun = time.perf_counter()
        made = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=TOKENS,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        said = made.sequences[:, longest:]
        logits = torch.stack(made.logits, 1)
        log_prob = logits.log_softmax(2).gather(2, said.unsqueeze(2)).squeeze(2)
        seconds = time.perf_counter() - begun
        assert log_prob.shape == (PROMPTS, TOKENS)
        return seconds

    return generate
