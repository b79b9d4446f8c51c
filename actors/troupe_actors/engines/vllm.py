"""vLLM as an engine: the same protocol, over its step loop, in this process.

Written against vLLM 0.14 to 0.17. Weights are copied into its parameters where they are, between
two of its steps. Prefix caching, which reads the prompt of a group once, is kept apart by version,
so that what starts after new weights is read by them.
"""

import os
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from troupe import seeding
from troupe.episodes import Columns
from troupe.errors import TroupeError, UserError
from troupe.language.models import ModelFolder, empty_model, load_model, own_tensors
from troupe.language.settings import EngineSettings
from troupe_actors.engines import Completion, Request, check_request
from troupe_actors.engines._arrivals import Arrivals

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput, SamplingParams

_DTYPES = {"auto": "auto", "fp32": "float32", "bf16": "bfloat16"}


def create(folder: ModelFolder, settings: EngineSettings) -> "VllmEngine":
    """See `engines.create`; the device is the one that vLLM was built for.

    Raises:
        UserError: vLLM is not installed.
    """
    # In a process of its own, it would sample ahead of what `step` has returned, and tokens would
    # be told by weights that did not choose them. It reads this when it is made.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        from vllm import EngineArgs, LLMEngine
    except ModuleNotFoundError as error:
        raise UserError(
            f"engine.name: 'vllm' needs the package {error.name}; pip install 'troupe[vllm]', on a "
            "machine that vLLM runs on"
        ) from None
    adapted = settings.lora_scale is not None
    own = own_tensors(load_model(folder) if adapted else empty_model(folder))
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=str(folder.path),
            skip_tokenizer_init=True,
            generation_config="vllm",  # nothing but what a request says
            dtype=_DTYPES[settings.precision],
            max_model_len=settings.max_length,
            max_num_seqs=settings.slots,
            gpu_memory_utilization=settings.memory,
            logprobs_mode="processed_logprobs",
            enable_prefix_caching=True,
            async_scheduling=False,
            disable_log_stats=True,
            worker_extension_cls="troupe_actors.engines._vllm_worker.WeightsTaker",
        )
    )
    return VllmEngine(engine, Arrivals(own, settings.lora_scale), folder.vocabulary, settings)


@dataclass(slots=True)
class _Sampled:
    """A sequence that runs."""

    tokens: list[int] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=list)
    version: list[int] = field(default_factory=list)


class VllmEngine:
    """`Engine` over a vLLM engine."""

    def __init__(
        self, engine: "LLMEngine", arrivals: Arrivals, vocabulary: int, settings: EngineSettings
    ) -> None:
        self._engine = engine
        self._arrivals = arrivals
        self._vocabulary = vocabulary
        self._settings = settings
        self._version = 0
        self._waiting: deque[Request] = deque()
        self._running: dict[int, _Sampled] = {}

    def load(self, version: int, tensors: Columns, bfloat16: Collection[str] = frozenset()) -> None:
        """See `Engine`."""
        taken = list(self._arrivals.taken(tensors, bfloat16))
        self._engine.collective_rpc("take_weights", args=(taken,))
        self._version = version
        if self._settings.reread:
            self._engine.reset_prefix_cache(reset_running_requests=True)

    def submit(self, requests: Sequence[Request]) -> None:
        """See `Engine`."""
        for request in requests:
            check_request(request, self._vocabulary, self._settings.max_length)
        self._waiting.extend(requests)

    def step(self) -> list[Completion]:
        """See `Engine`."""
        self._admit()
        if not self._running:
            return []
        outputs = self._engine.step()
        for output in outputs:
            self._record(output)
        return [self._completion(output) for output in outputs if output.finished]

    def cancel(self, ids: Collection[int]) -> None:
        """See `Engine`."""
        self._waiting = deque(request for request in self._waiting if request.id not in ids)
        leaving = [number for number in self._running if number in ids]
        if leaving:
            self._engine.abort_request([str(number) for number in leaving])
        for number in leaving:
            del self._running[number]

    @property
    def pending(self) -> int:
        """See `Engine`."""
        return len(self._waiting) + len(self._running)

    def _admit(self) -> None:
        """Hand over no more than can start now, so that they start by the weights of now."""
        from vllm import TokensPrompt

        while self._waiting and len(self._running) < self._settings.slots:
            request = self._waiting.popleft()
            prompt = TokensPrompt(
                prompt_token_ids=request.prompt.tolist(), cache_salt=str(self._version)
            )
            self._engine.add_request(str(request.id), prompt, self._parameters(request))
            self._running[request.id] = _Sampled()

    def _parameters(self, request: Request) -> "SamplingParams":
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        return SamplingParams(
            max_tokens=min(sampling.max_tokens, self._settings.max_length - len(request.prompt)),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stop_token_ids=list(sampling.stop),
            ignore_eos=True,  # the stop tokens of the request are all there are
            seed=seeding.key(request.seed, "tokens") >> 1,
            logprobs=0,  # of the sampled token alone
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _record(self, output: "RequestOutput") -> None:
        """Note the tokens that a step sampled for one request."""
        sampled, (delta,) = self._running[int(output.request_id)], output.outputs
        for token, log_probs in zip(delta.token_ids, delta.logprobs, strict=True):
            sampled.tokens.append(token)
            sampled.log_prob.append(log_probs[token].logprob)
            sampled.version.append(self._version)
        if not np.isfinite(sampled.log_prob).all():
            raise TroupeError("policy: an output is not finite, its weights have diverged")

    def _completion(self, output: "RequestOutput") -> Completion:
        number = int(output.request_id)
        sampled, (delta,) = self._running.pop(number), output.outputs
        return Completion(
            id=number,
            tokens=np.array(sampled.tokens, np.int32),
            log_prob=np.array(sampled.log_prob, np.float32),
            version=np.array(sampled.version, np.uint32),
            finish="stop" if delta.finish_reason == "stop" else "length",
        )
