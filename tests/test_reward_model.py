"""A reward model from a folder says what `transformers` says, whatever it is batched with."""

from pathlib import Path

import pytest
import torch

from troupe.config import parse
from troupe.errors import UserError
from troupe.jobs.spec import RewardSettings
from troupe_actors.rewards import Sample, create, model
from troupe_actors.scoring import Rewards

pytest.importorskip("transformers")

CHARACTERS = "abcdefgh:;"
TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}"
SAMPLES = [Sample("ab", "c"), Sample("abcdefgh", "hgf"), Sample("b", "bbbb"), Sample("", "h")]


def build(folder: Path, *, outputs: int = 1, padding: bool = True) -> Path:
    """A small Llama that judges, with a token for each character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    names = ["<pad>", "<unk>", *CHARACTERS]
    made = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>" if padding else None
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        num_labels=outputs,
        pad_token_id=0 if padding else None,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("judge"))


def reference(folder: Path, text: str, output: int = 0) -> float:
    from transformers import AutoModelForSequenceClassification

    judge = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = [2 + CHARACTERS.index(c) if c in CHARACTERS else 1 for c in text]
    with torch.no_grad():
        return float(judge(torch.tensor([tokens])).logits[0, output])


def settings(folder: Path, **options: object) -> RewardSettings:
    options |= {"path": str(folder), "device": "cpu", "precision": "fp32"}
    return RewardSettings(name="model", options=options, timeout=60)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_it_says_what_transformers_says(folder: Path, batch: int) -> None:
    given = create(settings(folder, batch=batch))(SAMPLES)
    expected = [reference(folder, s.prompt + s.completion) for s in SAMPLES]
    assert given == pytest.approx(expected, abs=1e-6)
    assert len({round(value, 4) for value in expected}) == len(SAMPLES)


def test_a_model_without_a_padding_token_reads_one_at_a_time(tmp_path: Path) -> None:
    folder = build(tmp_path / "judge", outputs=2, padding=False)
    given = create(settings(folder, output=1))(SAMPLES)
    expected = [reference(folder, s.prompt + s.completion, 1) for s in SAMPLES]
    assert given == pytest.approx(expected, abs=1e-6)


def test_chat_is_shown_in_the_models_own_template(folder: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"chat": [*turns, {"role": "user", "content": "c"}], "text": "hh"}
    sample = Sample("e", "d", row=row)
    for column, text in (("", "u:e;a:d;"), ("text", "u:hh;a:d;"), ("chat", "u:a;a:b;u:c;a:d;")):
        given = create(settings(folder, chat=True, prompt_column=column))([sample])
        assert given == pytest.approx([reference(folder, text)], abs=1e-6)


def test_in_a_process_of_its_own_a_text_that_is_too_long_fails_alone(folder: Path) -> None:
    with Rewards([settings(folder)]) as made:
        scored = made([Sample("a", "b"), Sample("a", "b" * 32), Sample("a", "c")])
    assert scored.failed.tolist() == [False, True, False]
    assert scored.reasons[1] == "model: ValueError: 33 tokens are more than the 32 that it reads"
    assert scored.total[0] == pytest.approx(reference(folder, "ab"), abs=1e-6)


def test_a_mistake_is_one_line(folder: Path, tmp_path: Path) -> None:
    wide = build(tmp_path / "wide", outputs=3)
    bare = build(tmp_path / "bare")
    (bare / "tokenizer_config.json").unlink()
    (bare / "tokenizer.json").unlink()
    for given, text in (
        (settings(wide), r"rewards\.model\.output: None; the model in .* has 3, .* from 0 to 2"),
        (settings(wide, output=3), r"rewards\.model\.output: 3; "),
        (settings(tmp_path), r"rewards\.model\.path: .* has no config\.json"),
        (settings(bare), r"rewards\.model\.path: .* cannot be loaded: "),
    ):
        with pytest.raises(UserError, match=text) as caught:
            create(given)
        assert "\n" not in str(caught.value)
    tokenizer = folder / "chat_template.jinja"
    tokenizer.rename(tmp_path / "aside")
    with pytest.raises(UserError, match=r"rewards\.model\.chat: the tokenizer in .* has no chat"):
        create(settings(folder, chat=True))
    (tmp_path / "aside").rename(tokenizer)


def test_the_options_are_checked_without_the_model() -> None:
    with pytest.raises(UserError, match=r"batch"):
        parse(model.Options, {"path": "x", "batch": 0}, "rewards.0.options")
