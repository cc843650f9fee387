"""From a Hugging Face module tree to a proved `Model`: transformer-lens' view, the parts, the sizes, the proofs."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from typing import Any

from circuits.errors import ModelError
from circuits.model.checks import prove
from circuits.model.model import Model, Shape
from circuits.model.parts import read_parts
from circuits.model.resolve import Place
from circuits.model.weights import ATTENTION


def assemble(place: Place, hf: Any, tokenizer: Any) -> Model:
    """Prove what the toolkit relies on (see checks) of an eager module tree, which transformer-lens then rewires.

    The handle runs a second tree over the same parameters. Raises ModelError for blocks laid out in a way not known here,
    and for a proof that fails.
    """
    from transformer_lens.model_bridge import TransformerBridge

    # transformer-lens fills in special tokens that a tokenizer lacks, which would change the prompts: it gets a copy,
    # with the name by which it reloads tokenizers, which one built in memory lacks
    theirs = copy.deepcopy(tokenizer)
    theirs.init_kwargs.setdefault("name_or_path", place.path)
    hf.eval().requires_grad_(requires_grad=False)
    raw = shared_copy(hf)
    first = next(hf.parameters())
    try:
        bridge = TransformerBridge.boot_transformers(
            place.path, hf_model=hf, tokenizer=theirs, device=str(first.device), dtype=first.dtype
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
        raise ModelError(
            f"the blocks of {type(hf).__name__} are laid out in a way not known here: no {error}"
        ) from error
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


def shared_copy(hf: Any) -> Any:
    """A second module tree over the same parameters: transformer-lens rewires its own, the engine runs the raw one."""
    memo = {id(t): t for t in [*hf.parameters(), *hf.buffers()]}
    return copy.deepcopy(hf, memo)


def _hash(hf: Any) -> str:
    """Identity of the weights: configuration, names, shapes and a strided sample of every parameter's values."""
    digest = hashlib.sha256(hf.config.to_json_string(use_diff=True).encode())
    for name, parameter in hf.named_parameters():
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)].double().cpu().numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:12]
