"""What every engine holds, run over every engine that is installed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from model_folders import LLAMA_LIKE, reference, save
from numpy.typing import NDArray
from transformers import PreTrainedModel

from troupe.episodes import Columns
from troupe.errors import TroupeError, UserError
from troupe.language.models import ModelFolder, own_tensors
from troupe_actors import engines
from troupe_actors.engines import Completion, Engine, EngineSettings, Request, Sampling, tiny

Tokens = NDArray[np.int32]
ENGINES: dict[str, Callable[[ModelFolder, EngineSettings], Engine]] = {
    "tiny": engines.create,
    "tiny-generic": tiny.create_generic,
}
if find_spec("vllm") is not None:  # pip install 'troupe[vllm]', on a machine it runs on
    ENGINES["vllm"] = lambda folder, s: engines.create(folder, replace(s, name="vllm"))
SMALL = EngineSettings(slots=4, max_length=48)
PROMPTS = [np.arange(3, 3 + n, dtype=np.int32) * 7 % 250 for n in (5, 1, 9, 2, 16, 5, 3)]


@dataclass(frozen=True)
class Maker:
    """One engine, as often as a test needs it."""

    create: Callable[[ModelFolder, EngineSettings], Engine]
    folder: ModelFolder
    model: PreTrainedModel

    def __call__(self, settings: EngineSettings = SMALL) -> Engine:
        return self.create(self.folder, settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return save(tmp_path_factory.mktemp("models"), "llama", LLAMA_LIKE)


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, folder: ModelFolder) -> Maker:
    return Maker(ENGINES[request.param], folder, reference(folder))


def requests(
    sampling: Sampling, prompts: Sequence[Tokens] = PROMPTS, seed: int = 0
) -> list[Request]:
    return [Request(i, prompt, seed + i, sampling, group=i) for i, prompt in enumerate(prompts)]


def finish(engine: Engine) -> dict[int, Completion]:
    done: dict[int, Completion] = {}
    while engine.pending:
        for completion in engine.step():
            assert completion.id not in done
            done[completion.id] = completion
    return done


def run(engine: Engine, asked: Sequence[Request]) -> dict[int, Completion]:
    engine.submit(asked)
    return finish(engine)


def scored(
    model: PreTrainedModel, prompt: Tokens, tokens: Tokens, temperature: float = 1.0
) -> NDArray[np.float32]:
    """log-probabilities of `tokens` after `prompt`, from one plain forward."""
    both = torch.from_numpy(np.concatenate([prompt, tokens])).long()
    with torch.inference_mode():
        logits = model(both[None]).logits[0, len(prompt) - 1 : -1].float() / temperature
        chosen = logits.log_softmax(1).gather(1, both[len(prompt) :, None])
        result: NDArray[np.float32] = chosen.squeeze(1).numpy()
        return result


def weights(model: PreTrainedModel, factor: float = 1.0) -> Columns:
    return {name: (t * factor).numpy() for name, t in own_tensors(model).items()}


def assert_same(one: Completion, other: Completion) -> None:
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_allclose(one.log_prob, other.log_prob, atol=1e-4)
    assert one.finish == other.finish


def test_greedy_is_what_transformers_generates(make: Maker) -> None:
    done = run(make(), requests(Sampling(12, temperature=0.0)))
    for i, prompt in enumerate(PROMPTS):
        given = torch.from_numpy(prompt).long()[None]
        expected = make.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            min_new_tokens=12,
            max_new_tokens=12,
            eos_token_id=None,
        )
        np.testing.assert_array_equal(done[i].tokens, expected[0, len(prompt) :].numpy())
        assert done[i].finish == "length"


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_log_prob_is_of_the_distribution_that_was_sampled(make: Maker, temperature: float) -> None:
    done = run(make(), requests(Sampling(20, temperature=temperature)))
    for i, prompt in enumerate(PROMPTS):
        expected = scored(make.model, prompt, done[i].tokens, temperature)
        np.testing.assert_allclose(done[i].log_prob, expected, atol=1e-4)


def test_tokens_are_drawn_as_likely_as_they_are(make: Maker) -> None:
    prompt = PROMPTS[0]
    asked = [Request(i, prompt, i, Sampling(1, temperature=0.7)) for i in range(2_000)]
    done = run(make(EngineSettings(slots=250, max_length=48)), asked)
    with torch.inference_mode():
        logits = make.model(torch.from_numpy(prompt).long()[None]).logits[0, -1]
    expected = (logits / 0.7).softmax(0).numpy()
    drawn = np.bincount([int(c.tokens[0]) for c in done.values()], minlength=len(expected))
    likely = expected * len(asked) >= 5.0
    assert likely.sum() > 20
    statistic = ((drawn - len(asked) * expected) ** 2 / (len(asked) * expected))[likely].sum()
    assert statistic < likely.sum() + 5.0 * np.sqrt(2.0 * likely.sum())


def test_the_first_of_several_stop_tokens_ends_a_completion_and_counts_once(make: Maker) -> None:
    free = run(make(), requests(Sampling(24)))
    stop = (int(free[0].tokens[4]), int(free[2].tokens[7]))
    done = run(make(), requests(Sampling(24, stop=stop)))
    for i, completion in done.items():
        places = np.flatnonzero(np.isin(free[i].tokens, stop))
        length = int(places[0]) + 1 if len(places) else 24
        np.testing.assert_array_equal(completion.tokens, free[i].tokens[:length])
        assert len(completion.log_prob) == len(completion.version) == length
        assert completion.finish == ("stop" if len(places) else "length")
    assert {done[0].finish, done[2].finish} == {"stop"}


def test_a_stop_token_at_the_limit_is_a_stop(make: Maker) -> None:
    (free,) = run(make(), requests(Sampling(3), PROMPTS[:1])).values()
    sampling = Sampling(3, stop=(int(free.tokens[2]),))
    (done,) = run(make(), requests(sampling, PROMPTS[:1])).values()
    first = int(np.flatnonzero(free.tokens == free.tokens[2])[0])
    assert (done.finish, len(done.tokens)) == ("stop", first + 1)


def test_seeds_reproduce_whatever_runs_beside(make: Maker) -> None:
    asked = requests(Sampling(20))
    together = run(make(), asked)
    alone = run(make(EngineSettings(slots=1, max_length=48)), asked)
    backwards = run(make(EngineSettings(slots=3, max_length=48)), asked[::-1])
    for i in range(len(asked)):
        assert_same(together[i], alone[i])
        assert_same(together[i], backwards[i])
    others = run(make(), requests(Sampling(20), seed=100))
    assert any(others[i].tokens.tolist() != together[i].tokens.tolist() for i in together)


def test_a_group_reads_one_prompt_and_draws_apart(make: Maker) -> None:
    prompt = PROMPTS[4]
    asked = [Request(i, prompt, i, Sampling(8), group=1) for i in range(10)]
    done = run(make(), asked)
    assert len({tuple(completion.tokens.tolist()) for completion in done.values()}) == 10
    for completion in done.values():
        expected = scored(make.model, prompt, completion.tokens)
        np.testing.assert_allclose(completion.log_prob, expected, atol=1e-4)


def test_more_requests_than_slots_are_all_answered(make: Maker) -> None:
    limits = [1 + (5 * i) % 17 for i in range(30)]
    asked = [
        Request(i, PROMPTS[i % len(PROMPTS)], i, Sampling(limit)) for i, limit in enumerate(limits)
    ]
    engine = make()
    engine.submit(asked[:20])
    assert engine.pending == 20
    first = {c.id: c for _ in range(5) for c in engine.step()}
    engine.submit(asked[20:])
    done = first | finish(engine)
    assert sorted(done) == list(range(30))
    for i, limit in enumerate(limits):
        assert len(done[i].tokens) == limit
        expected = scored(make.model, asked[i].prompt, done[i].tokens)
        np.testing.assert_allclose(done[i].log_prob, expected, atol=1e-4)


def test_a_sequence_ends_where_the_engine_has_no_more_room(make: Maker) -> None:
    (done,) = run(make(), requests(Sampling(1_000), PROMPTS[4:5])).values()
    assert (len(done.tokens), done.finish) == (SMALL.max_length - len(PROMPTS[4]), "length")


def test_new_weights_show_from_the_next_token_on(make: Maker) -> None:
    engine = make()
    engine.submit(requests(Sampling(12), PROMPTS[:2]))
    assert [engine.step() for _ in range(4)] == [[]] * 4
    engine.load(7, weights(make.model, 0.5))
    done = finish(engine)
    before = run(make(), requests(Sampling(12), PROMPTS[:2]))
    for i, completion in done.items():
        assert completion.version.tolist() == [0] * 4 + [7] * 8
        np.testing.assert_array_equal(completion.tokens[:4], before[i].tokens[:4])
        assert np.abs(completion.log_prob[4:] - before[i].log_prob[4:]).max() > 1e-3


def test_what_starts_after_new_weights_is_read_by_them(make: Maker) -> None:
    engine = make()
    engine.submit([Request(i, PROMPTS[4], i, Sampling(6), group=3) for i in range(6)])
    engine.step()
    engine.load(1, weights(make.model, 0.5))
    done = finish(engine)
    with torch.no_grad():
        for tensor in own_tensors(make.model).values():
            tensor *= 0.5
    for i in (4, 5):
        assert done[i].version.tolist() == [1] * 6
        expected = scored(make.model, PROMPTS[4], done[i].tokens)
        np.testing.assert_allclose(done[i].log_prob, expected, atol=1e-4)


def test_running_sequences_are_read_again_where_asked(make: Maker) -> None:
    engine = make(EngineSettings(slots=4, max_length=48, reread=True))
    engine.submit(requests(Sampling(12), PROMPTS[:3]))
    for _ in range(4):
        engine.step()
    engine.load(1, weights(make.model, 0.5))
    done = finish(engine)
    with torch.no_grad():
        for tensor in own_tensors(make.model).values():
            tensor *= 0.5
    for i in range(3):
        expected = scored(make.model, PROMPTS[i], done[i].tokens)
        np.testing.assert_allclose(done[i].log_prob[4:], expected[4:], atol=1e-4)


def test_weights_are_taken_whole_or_not_at_all(make: Maker) -> None:
    whole = weights(make.model, 0.5)
    last = list(whole)[-1]
    wrong = [
        {name: array for name, array in whole.items() if name != last},
        {**whole, last: whole[last][:-1]},
        {**whole, "other": whole[last]},
    ]
    expected = run(make(), requests(Sampling(6)))
    engine = make()
    for tensors in wrong:
        with pytest.raises(TroupeError, match="weights: "):
            engine.load(1, tensors)
    done = run(engine, requests(Sampling(6)))
    for i in expected:
        assert_same(done[i], expected[i])
        assert not done[i].version.any()


def test_weights_arrive_read_only_and_as_bfloat16_bits(make: Maker) -> None:
    given: dict[str, NDArray[np.generic]] = {}
    for name, tensor in own_tensors(make.model).items():
        tensor.copy_(tensor.bfloat16())
        given[name] = tensor.bfloat16().view(torch.uint16).numpy()
        given[name].flags.writeable = False
    engine = make()
    engine.load(3, given, bfloat16=set(given))
    (done,) = run(engine, requests(Sampling(8), PROMPTS[:1])).values()
    expected = scored(make.model, PROMPTS[0], done.tokens)
    np.testing.assert_allclose(done.log_prob, expected, atol=1e-4)
    assert done.version.tolist() == [3] * 8


def test_cancelled_requests_are_forgotten_and_leave_others_alone(make: Maker) -> None:
    expected = run(make(), requests(Sampling(10)))
    engine = make()
    engine.submit(requests(Sampling(10)))
    engine.step()
    engine.cancel({0, 2, 6, 99})
    assert engine.pending == 4
    done = finish(engine)
    assert sorted(done) == [1, 3, 4, 5]
    for i, completion in done.items():
        assert_same(completion, expected[i])


def test_cut_distributions_are_renormalised(make: Maker) -> None:
    asked = requests(Sampling(10, top_k=3)) + [
        replace(request, id=request.id + 10, sampling=Sampling(10, top_p=0.4))
        for request in requests(Sampling(10))
    ]
    for i, done in run(make(), asked).items():
        prompt = PROMPTS[i % 10]
        both = torch.from_numpy(np.concatenate([prompt, done.tokens])).long()
        with torch.inference_mode():
            probs = make.model(both[None]).logits[0, len(prompt) - 1 : -1].softmax(1)
        for place, token in enumerate(done.tokens.tolist()):
            ordered, order = probs[place].sort(descending=True)
            kept = 3 if i < 10 else int((ordered.cumsum(0) < 0.4).sum()) + 1
            assert token in order[:kept]
            expected = (probs[place, token] / ordered[:kept].sum()).log()
            assert done.log_prob[place] == pytest.approx(float(expected), abs=1e-4)


def test_an_adapter_alone_changes_the_weights_it_adapts(make: Maker, folder: ModelFolder) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    adapted = get_peft_model(
        reference(folder), LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    given = {n: t.detach().numpy() for n, t in get_peft_model_state_dict(adapted).items()}
    engine = make(EngineSettings(slots=4, max_length=48, lora_scale=3.0))
    for version in (1, 2):  # the second is merged into the folder's weights too
        engine.load(version, given)
    for i, done in run(engine, requests(Sampling(8))).items():
        expected = scored(adapted, PROMPTS[i], done.tokens)
        np.testing.assert_allclose(done.log_prob, expected, atol=1e-4)
    with pytest.raises(TroupeError, match="adapter"):
        engine.load(3, weights(make.model))


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (np.zeros(0, np.int32), "at least one"),
        (np.zeros(48, np.int32), "max_length 48"),
        (np.full(3, 264, np.int32), "another tokenizer"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_an_error(
    make: Maker, prompt: Tokens, said: str
) -> None:
    engine = make()
    with pytest.raises(UserError, match=said):
        engine.submit([*requests(Sampling(4)), Request(50, prompt, 0, Sampling(4))])
    assert engine.pending == 0


def test_diverged_weights_are_an_error(make: Maker) -> None:
    engine = make()
    engine.load(1, weights(make.model, float("nan")))
    engine.submit(requests(Sampling(4)))
    with pytest.raises(TroupeError, match="not finite"):
        engine.step()


def test_a_sequence_may_not_be_longer_than_the_context(folder: ModelFolder) -> None:
    with pytest.raises(UserError, match=r"engine\.max_length: 129 is past the 128 tokens"):
        engines.create(folder, EngineSettings(max_length=129))


@pytest.mark.parametrize(
    ("sampling", "key"),
    [
        (Sampling(4, temperature=0.0), "temperature"),
        (Sampling(4, top_p=0.9), "top_p"),
        (Sampling(4, top_k=5), "top_k"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_for_training(sampling: Sampling, key: str) -> None:
    with pytest.raises(UserError, match=rf"rollout\.{key}: "):
        engines.check_training(sampling, "rollout")
    engines.check_training(Sampling(4, temperature=0.7))


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0), Sampling(4, temperature=-1.0), Sampling(4, top_p=0.0), Sampling(4, top_k=-1)],
)
def test_sampling_out_of_range_is_an_error(sampling: Sampling) -> None:
    with pytest.raises(UserError, match="out of range"):
        engines.check_sampling(sampling)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_vllm_says_what_to_install(folder: ModelFolder) -> None:
    with pytest.raises(UserError, match=r"pip install 'troupe\[vllm\]'"):
        engines.create(folder, EngineSettings(name="vllm", max_length=48))
