"""Small models with random weights, saved as the folders that engines open."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from troupe.language.models import ModelFolder, load_model, open_folder
from troupe.language.small import SmallSettings, build

SHARP = 3.0
"""By what fresh weights are multiplied, so that tokens are far from equally likely."""

COMMON = {
    "vocab_size": 264,
    "eos_token_id": 257,
    "bos_token_id": None,
    "pad_token_id": 256,
    "max_position_embeddings": 128,
}
LLAMA_LIKE = {
    **COMMON,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FAST: dict[str, dict[str, object]] = {
    "llama": {**LLAMA_LIKE, "attention_bias": True, "mlp_bias": True},
    "llama-tied": {**LLAMA_LIKE, "tie_word_embeddings": True, "num_key_value_heads": 4},
    "llama-yarn": {
        **LLAMA_LIKE,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 10_000.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {**LLAMA_LIKE, "sliding_window": 96},
    "qwen2": LLAMA_LIKE,
    "qwen3": {**LLAMA_LIKE, "head_dim": 16},
}
"""Configs that have our own forward, by a name that starts with their model's type."""
OTHER: dict[str, dict[str, object]] = {
    "gpt2": {**COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "gpt_neox": {
        **COMMON,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "bloom": {**COMMON, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mistral-window": {**LLAMA_LIKE, "sliding_window": 6},
    "gemma3_text": {
        **LLAMA_LIKE,
        "head_dim": 16,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mamba": {**COMMON, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "lfm2": {**LLAMA_LIKE, "layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
}
"""Configs that go through transformers: other positions, windows, states rather than caches."""


def save(at: Path, name: str, settings: dict[str, object], seed: int = 0) -> ModelFolder:
    """A model of such a config in a folder of its own, with the byte-level tokenizer."""
    folder = at / name
    build(folder, SmallSettings(hidden=16, layers=1, heads=2), seed)
    (folder / "generation_config.json").unlink()
    config = AutoConfig.for_model(name.partition("-")[0], **settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        sharpen(model)
    model.save_pretrained(folder)
    return open_folder(folder)


def sharpen(model: PreTrainedModel) -> None:
    """Make matrices larger and biases and norms unlike one another."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= SHARP
            else:
                parameter += 0.1 * torch.randn_like(parameter)


def reference(folder: ModelFolder) -> PreTrainedModel:
    """The model as transformers runs it."""
    return load_model(folder)
