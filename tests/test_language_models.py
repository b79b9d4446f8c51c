"""Opening model folders: what is whole opens, what is not is one clear error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from troupe.config import parse
from troupe.errors import UserError
from troupe.language.models import empty_model, load_model, open_folder, own_tensors
from troupe.language.small import SmallSettings, build

TINY = SmallSettings(hidden=16, layers=1, heads=2, context=64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(tmp_path / "model", TINY, seed=0)
    return tmp_path / "model"


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_small_model_opens_as_any_other(folder: Path) -> None:
    opened = open_folder(folder)
    assert (opened.vocabulary, opened.context, opened.stop) == (261, 64, (257,))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Sort 4 2: é\n\t<end>"
    assert tokenizer(text)["input_ids"] == list(text.encode())
    assert opened.encode(text).tolist() == list(text.encode())
    assert opened.decode(np.array([*text.encode(), 257, 256], np.int32)) == text
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 261)


def test_the_default_has_0_4_million_parameters(tmp_path: Path) -> None:
    build(tmp_path, SmallSettings(), seed=0)
    tensors = own_tensors(empty_model(open_folder(tmp_path)))
    assert sum(tensor.numel() for tensor in tensors.values()) == 435_456
    assert "lm_head.weight" not in tensors  # tied: it came as the embedding


def test_a_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    build(tmp_path / "again", TINY, seed=0)
    build(tmp_path / "other", TINY, seed=1)
    of = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again", "other")
    ]
    assert of[0] == of[1] != of[2]


def test_every_size_can_be_chosen(tmp_path: Path) -> None:
    chosen = SmallSettings(
        hidden=24, layers=3, heads=6, key_value_heads=2, intermediate=40, vocabulary=300, tied=False
    )
    build(tmp_path, chosen, seed=0)
    tensors = own_tensors(load_model(open_folder(tmp_path)))
    assert tensors["lm_head.weight"].shape == (300, 24)
    assert tensors["model.layers.2.self_attn.k_proj.weight"].shape == (8, 24)
    assert tensors["model.layers.0.mlp.up_proj.weight"].shape == (40, 24)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"hidden": 30, "heads": 4}, "do not go together"), ({"vocabulary": 200}, "below 261")],
)
def test_sizes_that_do_not_fit_are_an_error(settings: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse(SmallSettings, settings, "model.small")


def test_a_chat_goes_through_the_template(folder: Path) -> None:
    tokens = open_folder(folder).encode([{"role": "user", "content": "hi"}])
    assert tokens.tolist() == [259, *b"hi", 257, 260]


def test_a_chat_needs_a_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        open_folder(folder).encode([{"role": "user", "content": "hi"}])


def test_stop_tokens_come_from_all_who_name_them(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[260, 258])
    edit(folder / "config.json", eos_token_id=258)
    assert open_folder(folder).stop == (260, 258, 257)


def drop(*patterns: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for pattern in patterns:
            for file in folder.glob(pattern):
                file.unlink()

    return change


def shrink(folder: Path) -> None:
    edit(folder / "config.json", vocab_size=200)


def of_no_language(folder: Path) -> None:
    edit(folder / "config.json", model_type="vit")


def of_no_kind(folder: Path) -> None:
    edit(folder / "config.json", model_type="nonesuch")


def half_a_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": ')


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "no folder with a config.json"),
        (drop("tokenizer*"), "has no tokenizer"),
        (drop("*.safetensors"), "no weights as safetensors"),
        (shrink, "tokens up to 260, the model knows 200"),
        (of_no_language, "no language model for"),
        (of_no_kind, "nonesuch"),
        (half_a_tokenizer, "the tokenizer of"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_error(
    folder: Path, change: Callable[[Path], None], said: str
) -> None:
    change(folder)
    with pytest.raises(UserError, match=said) as caught:
        open_folder(folder, "policies.agent.model")
    assert str(caught.value).startswith("policies.agent.model: ")
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_all_there_are_an_error(folder: Path) -> None:
    edit(folder / "config.json", num_hidden_layers=2)
    with pytest.raises(UserError, match=r"lacks the weights 'model\.layers\.1"):
        load_model(open_folder(folder))


def test_weights_of_another_shape_are_an_error(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=96)
    with pytest.raises(UserError, match="model: "):
        load_model(open_folder(folder))
