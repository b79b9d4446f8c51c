"""The learner's language policy against transformers' own padded forward pass."""

import copy

import pytest
import torch
import transformers
from texts import batch, block, llama, picked, plain, policy, sharpened
from torch import nn

from troupe.errors import UserError
from troupe.language.settings import LanguageSettings, LoraSettings
from troupe.policies.backbone import Backbone
from troupe.policies.language import LanguagePolicy
from troupe.policies.vocabulary import Head, token_log_probs
from troupe_learners.batches import split
from troupe_learners.flat import FlatModule

KINDS = ["shared", "rows"]


def of_kind(name: str) -> nn.Module:
    common = {"vocab_size": 29, "hidden_size": 16, "num_hidden_layers": 2}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
    match name:
        case "qwen3":
            return sharpened(
                transformers.Qwen3ForCausalLM,
                transformers.Qwen3Config(**common, **attention, head_dim=8),
            )
        case "mistral":
            return sharpened(
                transformers.MistralForCausalLM,
                transformers.MistralConfig(**common, **attention, sliding_window=4),
            )
        case "gpt2":
            return sharpened(
                transformers.GPT2LMHeadModel,
                transformers.GPT2Config(vocab_size=29, n_embd=16, n_layer=2, n_head=4),
            )
        case "granite":
            return sharpened(
                transformers.GraniteForCausalLM,
                transformers.GraniteConfig(**common, **attention, logits_scaling=3.0),
            )
        case "mamba":
            return sharpened(
                transformers.MambaForCausalLM,
                transformers.MambaConfig(**common, state_size=4),
            )
    return llama(tied=name == "tied")


@pytest.mark.parametrize("packing", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_losses_and_gradients_are_those_of_a_padded_forward_pass(packing: str, tied: bool) -> None:
    model = llama(tied=tied)
    reference = copy.deepcopy(model)
    own = LanguagePolicy(model, LanguageSettings(packing=packing, temperature=0.7, chunk=4))
    texts = batch(block(), block(seed=1, prompts=(1, 7, 2), lengths=((1,), (1, 1), (9, 2))))
    weight = torch.randn(2, texts.steps, generator=torch.Generator().manual_seed(3))

    given = own.evaluate(texts.evaluated(), {"log_prob", "entropy"})
    (weight[0] * given["log_prob"] + weight[1] * given["entropy"]).sum().backward()

    log = plain(reference, texts, 0.7)
    entropy = -(log.exp() * log).sum(1)
    (weight[0] * picked(log, texts) + weight[1] * entropy).sum().backward()
    torch.testing.assert_close(given["log_prob"], picked(log, texts), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(given["entropy"], entropy, atol=1e-5, rtol=1e-4)
    for (name, got), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("kind", "shared"),
    [("qwen3", True), ("mistral", True), ("gpt2", True), ("granite", True), ("mamba", False)],
)
def test_other_models_say_what_transformers_says(kind: str, shared: bool) -> None:
    model = of_kind(kind)
    reference, texts = copy.deepcopy(model), batch()
    own = LanguagePolicy(model, LanguageSettings())
    assert own._policy.shared == shared
    got = own.evaluate(texts.evaluated(), {"log_prob"})["log_prob"]
    torch.testing.assert_close(got, picked(plain(reference, texts), texts), atol=1e-4, rtol=1e-4)


def test_no_division_into_micro_batches_and_no_order_changes_anything() -> None:
    own = policy()
    texts = batch(block(), block(seed=1))
    whole = own.evaluate(texts.evaluated(), {"log_prob"})["log_prob"]
    for limit in (1, 7, 12, 20):
        parts = [
            own.evaluate(part.evaluated(), {"log_prob"})["log_prob"]
            for part in split(texts, limit, whole=True)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=1e-5)
        assert len(parts) > 1


def test_long_and_short_completions_of_one_group_are_told_apart() -> None:
    model = llama()
    reference = copy.deepcopy(model)
    texts = batch(
        block(prompts=(3,), lengths=((60, 1, 2, 45),)), block(prompts=(50,), lengths=((2, 20),))
    )
    got = LanguagePolicy(model, LanguageSettings()).evaluate(texts.evaluated(), {"log_prob"})
    expected = picked(plain(reference, texts), texts)
    torch.testing.assert_close(got["log_prob"], expected, atol=1e-4, rtol=1e-4)


def test_dropout_is_off_and_checkpointing_changes_nothing() -> None:
    config = transformers.GPT2Config(vocab_size=29, n_embd=16, n_layer=2, n_head=4)
    assert config.resid_pdrop > 0
    model = sharpened(transformers.GPT2LMHeadModel, config)
    again = copy.deepcopy(model)
    texts, grads = batch(), []
    for own in (
        LanguagePolicy(model, LanguageSettings()),
        LanguagePolicy(again, LanguageSettings(checkpointing=True)),
    ):
        own.evaluate(texts.evaluated(), {"log_prob"})["log_prob"].sum().backward()
        grads.append([parameter.grad for parameter in own.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_softmax_is_float32_in_mixed_precision() -> None:
    own, texts = policy(), batch()
    exact = own.evaluate(texts.evaluated(), {"log_prob", "entropy"})
    with torch.autocast("cpu", torch.bfloat16):
        mixed = own.evaluate(texts.evaluated(), {"log_prob", "entropy"})
    for name, column in mixed.items():
        assert column.dtype == torch.float32
        torch.testing.assert_close(column, exact[name], atol=0.15, rtol=0.1)
    hidden = torch.randn(5, 16).bfloat16()
    head = Head(torch.randn(29, 16).bfloat16())
    token = torch.arange(5)
    got, _ = token_log_probs(hidden, head, token)
    logits = (hidden @ head.weight.T).float().log_softmax(1)
    torch.testing.assert_close(got, logits.gather(1, token[:, None]).squeeze(1))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
def test_chunks_are_whole_logits(bias: bool, entropy: bool) -> None:
    random = torch.Generator().manual_seed(0)
    leaves = [torch.randn(shape, generator=random, dtype=torch.float64) for shape in [(7, 5), (11, 5), (11,)]]  # fmt: skip
    leaves = [leaf.float().requires_grad_() for leaf in leaves]
    token = torch.randint(11, (7,), generator=random)
    rates = torch.randn(2, 7, generator=random)
    hidden, weight, shift = leaves
    head = Head(weight, shift if bias else None, scale=1.5)
    log_prob, spread = token_log_probs(hidden, head, token, entropy=entropy, chunk=3)
    assert (spread is not None) == entropy
    own = (rates[0] * log_prob).sum() + (0.0 if spread is None else (rates[1] * spread).sum())
    used = leaves if bias else leaves[:2]
    got = torch.autograd.grad(own, used)
    logits = 1.5 * nn.functional.linear(hidden, weight, shift if bias else None)
    log = logits.log_softmax(1)
    expected = (rates[0] * log.gather(1, token[:, None]).squeeze(1)).sum()
    if entropy:
        expected = expected - (rates[1] * (log.exp() * log).sum(1)).sum()
    torch.testing.assert_close(own, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected, used))


# Values and references


@pytest.mark.parametrize("kind", ["head", "model"])
def test_values_begin_at_zero_and_are_learned(kind: str) -> None:
    own, texts = policy(value=kind), batch()
    value = own.evaluate(texts.evaluated(), {"value", "log_prob"})["value"]
    assert value.tolist() == [0.0] * texts.steps
    value.sum().backward()
    assert own.value is not None
    assert own.value.weight.grad is not None
    assert own.value.weight.grad.abs().sum() > 0
    everything, critic, rest = (own.group(name) for name in ("all", "critic", "policy"))
    assert len(everything) == len(critic) + len(rest)
    assert (len(critic) > 2) == (kind == "model")


def test_without_a_critic_there_are_no_values() -> None:
    with pytest.raises(UserError, match=r"network\.language\.value"):
        policy().evaluate(batch().evaluated(), {"value"})


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_the_reference_stays_what_the_policy_was(lora: LoraSettings | None) -> None:
    own, texts = policy(reference=True, lora=lora), batch()
    first = own.evaluate(texts.evaluated(), {"log_prob", "reference"})
    torch.testing.assert_close(first["log_prob"], first["reference"])
    assert not first["reference"].requires_grad
    with torch.no_grad():
        for parameter in own.group("all"):
            parameter.add_(0.3)
    then = own.evaluate(texts.evaluated(), {"log_prob", "reference"})
    torch.testing.assert_close(then["reference"], first["reference"])
    assert (then["log_prob"] - first["log_prob"]).abs().max() > 0.1


def test_without_a_reference_there_is_none() -> None:
    with pytest.raises(UserError, match=r"network\.language\.reference"):
        policy().evaluate(batch().evaluated(), {"reference"})


# What travels


@pytest.mark.parametrize("tied", [True, False])
def test_weights_travel_by_the_names_of_the_model_and_without_a_critic(tied: bool) -> None:
    model = llama(tied=tied)
    names = set(dict(model.named_parameters()))
    own = LanguagePolicy(model, LanguageSettings(value="model", reference=True))
    flat = FlatModule(own, [own.group("all")])
    held = flat.weights()
    assert set(own.published(held)) == names
    assert ("lm_head.weight" in names) != tied
    assert not any(name.startswith("reference") for name in held)
    flat.load_weights({name: column + 1 for name, column in held.items()})
    again = flat.weights()
    assert all((again[name] == column + 1).all() for name, column in held.items())


def test_of_a_model_with_adapters_they_alone_are_trained_and_travel() -> None:
    own = policy(lora=LoraSettings(rank=2, targets=("q_proj", "v_proj")))
    flat = FlatModule(own, [own.group("all")])
    sent = own.published(flat.weights())
    assert len(sent) == 2 * 2 * 2
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in sent
    assert len(own.group("all")) == len(sent)
    texts = batch()
    own.evaluate(texts.evaluated(), {"log_prob"})["log_prob"].sum().backward()
    assert all(parameter.grad is not None for parameter in own.group("all"))


def test_adapters_that_fit_no_layer_are_refused() -> None:
    with pytest.raises(UserError, match=r"lora\.targets: qq_proj.*q_proj"):
        policy(lora=LoraSettings(targets=("qq_proj",)))


def test_adapters_on_the_last_layer_are_refused() -> None:
    with pytest.raises(UserError, match="last layer"):
        LanguagePolicy(
            llama(tied=False), LanguageSettings(lora=LoraSettings(targets=("lm_head", "q_proj")))
        )


def test_a_model_that_caps_its_logits_is_refused() -> None:
    config = transformers.Gemma2Config(
        vocab_size=29,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=3.0,
    )
    with pytest.raises(UserError, match="a cap on them"):
        Backbone(sharpened(transformers.Gemma2ForCausalLM, config), LanguageSettings())
