"""What makes two models the same: every byte of the weights, the configuration, the tokenizer, dtype, device."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from circuits.model.model import Model

_known: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()
"""Of module trees and tokenizers: the state in which they were looked at, and what was found."""


def weights_hash(model: Model) -> str:
    """Sixteen hex digits of the sha256 of configuration and parameters, all of their bytes (about a second per GB).

    Computed again only where a parameter was changed in place or replaced since.
    """
    parameters = list(model.hf.named_parameters())
    config, numbers = model.hf.config.to_json_string(use_diff=True), _numbers(model.hf)
    tensors = [*parameters, *model.hf.named_buffers()]
    # torch counts changes in place, but none that are made through `.data`
    state = (config, numbers, tuple((t.data_ptr(), t._version, _sum(t)) for _, t in tensors))  # noqa: SLF001
    seen = _known.get(model.hf)
    if seen is not None and seen[0] == state:
        return seen[1]
    digest = hashlib.sha256(config.encode() + numbers.encode())
    for name, parameter in parameters:
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
    for name, buffer in model.hf.named_buffers():
        digest.update(f"{name}{tuple(buffer.shape)}".encode())
        digest.update(buffer.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
    found = digest.hexdigest()[:16]
    _known[model.hf] = (state, found)
    return found


def _numbers(hf: Any) -> str:
    """What modules compute with besides tensors: scales, epsilons, windows, dropout, whether they train."""
    found: list[str] = []
    for name, module in hf.named_modules():
        if name:
            own = sorted((k, v) for k, v in vars(module).items() if isinstance(v, bool | int | float))
            hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]  # noqa: SLF001
            theirs = sum(not str(getattr(hook, "__module__", "")).startswith("circuits.") for hook in hooks)
            found.append(f"{name} {type(module).__qualname__} {own} {theirs}")
    return "\n".join(found)


def _sum(t: Tensor) -> int:
    """Of the bytes, eight at a time as one whole number: all of them are read, at the speed of memory."""
    data = t.detach().flatten().view(torch.uint8)
    whole = len(data) // 8 * 8
    return int(data[:whole].view(torch.int64).sum()) + int(data[whole:].sum())


def tokenizer_hash(tokenizer: Any) -> str:
    """Sixteen hex digits of the sha256 of vocabulary, special tokens, chat template and how text is cut.

    Computed again only where tokens were added or the template is another.
    """
    state = (len(tokenizer), str(getattr(tokenizer, "chat_template", None)), str(tokenizer.special_tokens_map))
    seen = _known.get(tokenizer)
    if seen is not None and seen[0] == state:
        return seen[1]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = {
        "class": type(tokenizer).__name__,
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "template": str(getattr(tokenizer, "chat_template", None)),
        "cut": None if backend is None else _cut(backend),
    }
    found = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    _known[tokenizer] = (state, found)
    return found


def _cut(backend: Any) -> dict[str, Any]:
    """How text is cut, without how the last call was padded or truncated, which the backend remembers."""
    told = json.loads(backend.to_str())
    return {name: value for name, value in told.items() if name not in ("padding", "truncation")}


def identity(model: Model) -> str:
    """One line that is equal where numbers may be compared to the last digit: weights, tokenizer, dtype, kind of device."""
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{weights_hash(model)} {tokenizer_hash(model.tokenizer)} {dtype} {model.device.type}"
