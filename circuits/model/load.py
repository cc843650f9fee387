"""load(): one call from a name to a model that has proved what the rest of the package relies on."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
from collections.abc import Generator
from dataclasses import replace
from logging import ERROR, getLogger
from typing import Any, Literal

import torch

from circuits.errors import ModelError
from circuits.model.checks import prove
from circuits.model.model import Model, Shape
from circuits.model.parts import read_parts
from circuits.model.resolve import DEFAULT_MODEL, Place, bundled_models, resolve
from circuits.model.weights import ATTENTION

DTypeName = Literal["float32", "bfloat16", "float16", "float64"]


def load(
    name: str = DEFAULT_MODEL,
    *,
    dtype: DTypeName = "float32",
    device: str = "auto",
    tokenizer: Any = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model by bundled name, local folder or hub id, and prove what the toolkit relies on (see checks).

    Raw Hugging Face numerics: eager attention, no folding, weights from safetensors only, remote code off unless
    asked for. `device="auto"` takes CUDA where there is one. Raises ModelError with what is missing and the way on.
    """
    place = resolve(name)
    _quiet()
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = _device(device)
    with _explained(place):
        _check_architecture(place, trust_remote_code=trust_remote_code)
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
    # transformer-lens fills in special tokens that a tokenizer lacks, which would change the prompts: it gets a copy,
    # with the name by which it reloads tokenizers, which one built in memory lacks
    theirs = copy.deepcopy(tokenizer)
    theirs.init_kwargs.setdefault("name_or_path", place.path)
    hf.eval().requires_grad_(requires_grad=False)
    raw = _shared_copy(hf)
    try:
        bridge = TransformerBridge.boot_transformers(
            place.path, hf_model=hf, tokenizer=theirs, device=str(where), dtype=getattr(torch, dtype)
        )
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise ModelError(f"{type(hf).__name__} is not known to transformer-lens: {error}") from error
    raw.set_attn_implementation(ATTENTION)
    config = raw.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    try:
        parts = read_parts(raw, bridge.adapter.component_mapping, n_heads=heads, n_kv_heads=kv_heads, d_head=d_head)
    except (KeyError, AttributeError) as error:
        raise ModelError(f"the blocks of {type(hf).__name__} are laid out in a way not known here: no {error}") from error
    shape = Shape(
        n_layers=len(parts.blocks),
        n_heads=heads,
        n_kv_heads=kv_heads,
        d_model=config.hidden_size,
        d_head=d_head,
        d_mlp=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size,
        d_vocab=parts.unembed.weight.shape[0],  # type: ignore[union-attr]  nn.Module types its attributes loosely
    )
    model = Model(
        name=place.name, origin=place.origin, hf=raw, bridge=bridge, tokenizer=tokenizer, parts=parts, shape=shape,
        softcap=float(cap) if cap and cap > 0 else None, hash=_hash(raw), facts={},
    )  # fmt: skip
    return replace(model, facts=prove(model))


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


def _shared_copy(hf: Any) -> Any:
    """A second module tree over the same parameters: transformer-lens rewires its own, the engine runs the raw one."""
    memo = {id(t): t for t in [*hf.parameters(), *hf.buffers()]}
    return copy.deepcopy(hf, memo)


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
    if not getattr(config.get_text_config(), "num_attention_heads", None):
        raise ModelError(
            f"{place.name} ({config.model_type}) has no attention heads: the sites attn_out, z and pattern do not exist"
        )


@contextlib.contextmanager
def _explained(place: Place) -> Generator[None]:
    """Turn the loaders' failures into what is missing and what to do instead."""
    from safetensors import SafetensorError

    alternatives = (
        f"download it where there is a network and give the folder (--model path/to/folder), "
        f"or use a bundled model ({', '.join(bundled_models())})"
    )
    try:
        yield
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        text = str(error)
        first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
        if place.origin != "hub":
            raise ModelError(f"{place.path} does not load: {first}") from error
        gated = "gated" in text.lower() or "401" in text or "403" in text
        reason = (
            "it is gated: accept its licence on the hub and log in"
            if gated
            else "the hub is unreachable or has no such model"
        )
        raise ModelError(f"cannot get {place.name}: {reason} ({first})\n{alternatives}") from error


def _hash(hf: Any) -> str:
    """Identity of the weights: configuration, names, shapes and a strided sample of every parameter's values."""
    digest = hashlib.sha256(hf.config.to_json_string(use_diff=True).encode())
    for name, parameter in hf.named_parameters():
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)].double().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:12]
