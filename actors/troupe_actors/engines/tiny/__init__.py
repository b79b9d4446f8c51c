"""Our own engine: a loop over one model with a key-value cache, on a CPU or a GPU.

Sequences that finish make room for those that wait, between two tokens. A prompt is read once for
all completions of its group: all but its last token, which is then read as every sampled token is.
Llama-shaped models take a path of their own, any other goes through transformers.
"""

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from troupe.errors import UserError
from troupe.language.models import ModelFolder, load_model, own_tensors
from troupe.language.settings import EngineSettings
from troupe.policies.devices import resolve_device, resolve_precision
from troupe_actors.engines import Engine
from troupe_actors.engines._arrivals import Arrivals
from troupe_actors.engines.tiny.cohorts import CohortDecoder
from troupe_actors.engines.tiny.llama import LlamaDecoder
from troupe_actors.engines.tiny.llama_weights import LlamaWeights, Shape, shape_of
from troupe_actors.engines.tiny.loop import Loop


def create(folder: ModelFolder, settings: EngineSettings) -> Engine:
    """See `engines.create`."""
    shape = shape_of(folder.config, settings.max_length)
    return create_generic(folder, settings) if shape is None else _llama(folder, settings, shape)


def create_generic(folder: ModelFolder, settings: EngineSettings) -> Engine:
    """The same through transformers, whatever the shape."""
    device = resolve_device(settings.device)
    model = load_model(folder, resolve_precision(settings.precision, device))
    model.to(device)  # type: ignore[arg-type]
    base = own_tensors(model)
    if settings.lora_scale is not None:  # adapters are merged into what the folder has
        base = {name: tensor.clone() for name, tensor in base.items()}
    decoder = CohortDecoder(model, Arrivals(base, settings.lora_scale))
    return Loop(
        decoder,
        device,
        slots=settings.slots,
        max_length=settings.max_length,
        vocabulary=folder.vocabulary,
        reread=settings.reread,
    )


def _llama(folder: ModelFolder, settings: EngineSettings, shape: Shape) -> Engine:
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    cells = settings.slots * settings.max_length * shape.cells
    _check_memory(cells * precision.itemsize, device, settings)
    model = load_model(folder)
    own = own_tensors(model)
    weights = LlamaWeights(own, shape, device, precision)
    decoder = LlamaDecoder(
        weights,
        shape,
        rotation=_rotation(model, settings.max_length).to(device),
        arrivals=Arrivals(own, settings.lora_scale),
        slots=settings.slots,
    )
    return Loop(
        decoder,
        device,
        slots=settings.slots,
        max_length=settings.max_length,
        vocabulary=folder.vocabulary,
        reread=settings.reread,
    )


def _rotation(model: PreTrainedModel, length: int) -> Tensor:
    """complex64 [length, width / 2]: by what the model turns heads at each position."""
    with torch.inference_mode():
        place = torch.arange(length).unsqueeze(0)
        cos, sin = model.model.rotary_emb(torch.zeros(1), place)
        half = cos.shape[-1] // 2
        return torch.complex(cos[0, :, :half], sin[0, :, :half])


def _check_memory(needed: int, device: torch.device, settings: EngineSettings) -> None:
    """Raises UserError if a cache of so many bytes would not fit, which a CPU shows only later."""
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"engine.slots: {settings.slots} sequences of max_length {settings.max_length} need "
            f"{needed / 2**30:.1f} GiB of cache, {free / 2**30:.1f} are free; take fewer or shorter ones"
        )
