"""What a checkpoint's own files may not send the loader to: pickles, adapters of other models, kernels from the hub.

The loader is asked for safetensors, but follows what the files name: an index may list `x.bin`, which would be unpickled;
an adapter's configuration may name another model; a configuration may name an attention kernel that is fetched and run.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from circuits.errors import ModelError
from circuits.model.resolve import Place

_SHARD: Final = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_INDEX: Final = "model.safetensors.index.json"
_ADAPTER: Final = "adapter_config.json"


def check_named_files(place: Place) -> None:
    """Raise ModelError, before any weight is read, where a checkpoint names what is not a safetensors file beside it."""
    from transformers import PretrainedConfig
    from transformers.utils.hub import cached_file

    said: dict[str, Any] = PretrainedConfig.get_config_dict(place.path)[0]
    for name in ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"):
        if said.get(name) not in (None, "eager", "sdpa", "flash_attention_2", "flex_attention", "grouped_mm"):
            raise ModelError(
                f"{place.name}: its config.json asks for the kernel {str(said[name])[:80]!r}; take {name} out"
            )
    if said.get("transformers_weights") is not None:
        raise ModelError(
            f"{place.name}: its config.json names weights of its own (transformers_weights); take that out"
        )
    options: dict[str, Any] = {
        "_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False,
    }  # fmt: skip
    if cached_file(place.path, _ADAPTER, **options) is not None:
        raise ModelError(
            f"{place.name} is an adapter of another model ({_ADAPTER}); merge it into its model and save that"
        )
    index = cached_file(place.path, _INDEX, **options)
    if index is not None:
        with open(index, encoding="utf-8") as file:  # noqa: PTH123  the loader gives text
            shards: Any = json.load(file).get("weight_map")
        names: list[Any] = list(shards.values()) if isinstance(shards, dict) else [shards]
        wrong = [name for name in names if not isinstance(name, str) or not _SHARD.fullmatch(name)]
        if wrong:
            raise ModelError(
                f"{place.name}: {_INDEX} lists {str(wrong[0])[:80]!r}, which is no safetensors file beside it and is not read"
            )
