"""What a run of a language model comes to: a folder that transformers opens, tokenizer included."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from troupe import checkpoint
from troupe.checkpoint import Checkpoint
from troupe.episodes import Columns
from troupe.errors import UserError
from troupe.jobs.prepare import prepared_paths
from troupe.jobs.spec import Job
from troupe.language.adapters import merged
from troupe.language.models import hush, load_model, open_folder, own_tensors
from troupe.language.settings import LanguageSettings
from troupe.policies.adapters import published
from troupe.runs import RunFolder, writing

MODEL = "model"
"""In the run's folder."""

_SHARDS = "*.safetensors*"
_KEY = "network.language.model"


def export(run: RunFolder, name: str | None = None, to: Path | None = None) -> Path:
    """Write the model of a run's newest checkpoint, or of the one named; where it is.

    It is the folder that the run began with, with other weights: the tokenizer, the chat template
    and the precision are those. Adapters are merged.

    Raises:
        UserError: the run is not of a language model, has no such checkpoint, or the folder that it
            began with is gone; or `to` holds something else.
        CheckpointError: there is no checkpoint yet, or it is not sound.
    """
    language = language_of(run)
    state = checkpoint.load(run.saved(name))
    target = run.path / MODEL if to is None else to
    _check_target(target)
    aside = target.parent / f".{target.name}.tmp"
    with writing(target):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _write(aside, language, weights_of(state))
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    return target


def language_of(run: RunFolder) -> LanguageSettings:
    """The model of a run, with its path.

    Raises:
        UserError: the run has none.
    """
    job: Job = prepared_paths(run.job(), run.path)
    if job.network.language is None:
        raise UserError(f"{run.name}: has no language model; this is for runs of text alone")
    return job.network.language


def weights_of(state: Checkpoint) -> Columns:
    """What of a checkpoint is the model's, or its adapter's, by the names that its folder has."""
    (tensors,) = state.weights.values()
    return published(tensors)


def _check_target(target: Path) -> None:
    if target.exists() and not (target / "config.json").is_file():
        raise UserError(f"--to: {str(target)!r} is there and is no model; name another folder")


def _write(aside: Path, language: LanguageSettings, tensors: Columns) -> None:
    """Every file of the model's folder as it was, but the weights."""
    folder = open_folder(language.model, _KEY)
    dtype = folder.config.dtype
    precision = dtype if isinstance(dtype, torch.dtype) else torch.float32
    model = load_model(folder, precision, key=_KEY)
    _fill(own_tensors(model), tensors, language)
    for path in folder.path.iterdir():
        if path.is_file() and not path.match(_SHARDS):
            shutil.copyfile(path, aside / path.name)
    folder.tokenizer.save_pretrained(aside)
    hush()
    model.save_pretrained(aside)


def _fill(own: Mapping[str, Tensor], tensors: Columns, language: LanguageSettings) -> None:
    """Put a checkpoint's weights into a model's tensors."""
    given = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    lora = language.lora
    if lora is not None:
        given = dict(merged(own, given, lora.scale))
    shapes, wanted = ({n: t.shape for n, t in of.items()} for of in (given, own))
    if lora is None and shapes != wanted:
        name = next(n for n in {**wanted, **shapes} if wanted.get(n) != shapes.get(n))
        raise UserError(
            f"{_KEY}: {language.model!r} has {name} {_size(wanted, name)}, the run's checkpoint "
            f"{_size(shapes, name)}; it is another model than the run began with"
        )
    with torch.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)


def _size(shapes: Mapping[str, torch.Size], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "nowhere"
