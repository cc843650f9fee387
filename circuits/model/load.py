"""load(): one call from a name to a model that has proved what the rest of the package relies on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Literal

import torch

from circuits.errors import ModelError
from circuits.model.assemble import assemble
from circuits.model.edit_file import read_stored
from circuits.model.model import Model
from circuits.model.named_files import check_named_files
from circuits.model.orthogonal import edited, in_weights
from circuits.model.resolve import DEFAULT_MODEL, Place, bundled_models, resolve

_DAMAGED = (OSError, ValueError, ImportError, RuntimeError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What the loaders raise for configurations and tokenizers that are damaged."""
DTypeName = Literal["float32", "bfloat16", "float16", "float64"]


def load(
    name: str = DEFAULT_MODEL,
    *,
    dtype: DTypeName = "float32",
    device: str = "auto",
    tokenizer: Any = None,
    trust_remote_code: bool = False,
    edits: str | Path | None = None,
) -> Model:
    """Load a model by bundled name, local folder or hub id, and prove what the toolkit relies on (see checks).

    Raw Hugging Face numerics: eager attention, no folding, weights from safetensors only, remote code off unless
    asked for. `device="auto"` takes CUDA where there is one. `edits` is a folder written by `edits.save_edits`: ablations of
    directions everywhere become orthogonalised weights, in memory alone. Raises ModelError with what is missing and the
    way on; before any weight is read where the edits are not such ablations.
    """
    place = resolve(name)
    stored = None if edits is None else read_stored(edits)
    if stored is not None:
        in_weights(stored)
    _quiet()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = _device(device)
    with _explained(place):
        _check_architecture(place, trust_remote_code=trust_remote_code)
        check_named_files(place)
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(place.path, trust_remote_code=trust_remote_code)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place.path,
            dtype=getattr(torch, dtype),
            attn_implementation="eager",  # the other kernels give neither patterns nor the mask that a replay reuses
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
        hf, told = loaded
        missing = sorted(told["missing_keys"])
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ModelError(
                f"{place.path}: the weights lack {', '.join(missing[:3])}{more}; they would be random numbers"
            )
        hf.to(where)
    model = assemble(place, hf, tokenizer)
    return model if stored is None else edited(model, stored)


def _quiet() -> None:
    """Progress bars and advisory warnings of the loaders would drown the one line that matters."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    getLogger("huggingface_hub").setLevel(ERROR)  # it announces every retry


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device!r} is not usable here: {str(error).splitlines()[0]}; try cpu") from error
    return where


def _check_architecture(place: Place, *, trust_remote_code: bool) -> None:
    """Refuse encoders and recurrent models from their configuration, before any weight is read."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = AutoConfig.from_pretrained(place.path, trust_remote_code=trust_remote_code)
    named = list(config.architectures or [])
    encoder = config.is_encoder_decoder or (
        named and not any(a.endswith(("ForCausalLM", "LMHeadModel")) for a in named)
    )
    if encoder or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"{place.name} is a {', '.join(named) or config.model_type}: not a decoder-only language model; "
            "the sites resid_pre, attn_out, mlp_out and z exist only there"
        )
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(layers, int) or layers < 1:
        raise ModelError(f"{place.path} does not load: its config.json says {layers!r} blocks (num_hidden_layers)")
    if not getattr(config.get_text_config(), "num_attention_heads", None):
        raise ModelError(
            f"{place.name} ({config.model_type}) has no attention heads: the sites attn_out, z and pattern do not exist"
        )


@contextlib.contextmanager
def _explained(place: Place) -> Generator[None]:
    """Turn the loaders' failures into what is missing and what to do instead."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    alternatives = (
        f"download it where there is a network and give the folder (--model path/to/folder), "
        f"or use a bundled model ({', '.join(bundled_models())})"
    )
    try:
        yield
    except (*_DAMAGED, SafetensorError, StrictDataclassError) as error:
        text = str(error)
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        if "trust_remote_code" in text:
            raise ModelError(
                f"{place.name} needs Python code that comes with it, and that code was not run\n"
                "--trust-remote-code (in Python trust_remote_code=True) runs it with your rights: read it first"
            ) from error
        if place.origin != "hub":
            raise ModelError(f"{place.path} does not load: {first}") from error
        gated = "gated" in text.lower() or "401" in text or "403" in text
        reason = (
            "it is gated: accept its licence on the hub and log in"
            if gated
            else "the hub is unreachable or has no such model"
        )
        raise ModelError(f"cannot get {place.name}: {reason} ({first})\n{alternatives}") from error
