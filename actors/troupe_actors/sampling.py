"""How the completions of a job are made."""

from dataclasses import replace

from troupe.jobs.spec import Job, TextSettings
from troupe.language.models import ModelFolder
from troupe.language.settings import EngineSettings
from troupe_actors.engines import Sampling


def engine_settings(job: Job, text: TextSettings) -> EngineSettings:
    """The job's engine, told of adapters if those are what is trained."""
    language = job.network.language
    lora = None if language is None else language.lora
    return text.engine if lora is None else replace(text.engine, lora_scale=lora.scale)


def sampling_of(text: TextSettings, folder: ModelFolder) -> Sampling:
    """How a job's completions are drawn."""
    return Sampling(text.max_tokens, text.temperature, text.top_p, text.top_k, folder.stop)
