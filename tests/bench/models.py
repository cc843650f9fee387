"""Random models of any size and prompt pairs for them.

The models come through `circuits.load` like any other, except that their weights are drawn where they will be used
instead of being read: a model of two and a half billion parameters needs no checkpoint on disk.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import WORDS, tokenizer

from circuits.model import Model, load
from circuits.prompts import PairSet, TokenPairs


@dataclass(frozen=True)
class Size:
    """A random Gemma and the pairs it is measured on; the default is what the tables of the page are about."""

    layers: int = 18
    d_model: int = 512
    heads: int = 8
    kv_heads: int = 1
    d_head: int = 64
    d_mlp: int = 2048
    vocab: int = 64_000
    pairs: int = 4
    length: int = 20
    """Tokens of a prompt, <bos> included."""
    differs: int = 7
    """The token that differs, counted from the end: 1 is the last one."""

    @property
    def line(self) -> str:
        """What a table is about, in words."""
        return (
            f"{self.layers} layers, width {self.d_model}, {self.heads} heads of {self.d_head}, "
            f"{self.kv_heads} key-value head{'s' * (self.kv_heads > 1)}, MLP {self.d_mlp}, {self.vocab:,} tokens; "
            f"{self.pairs} pairs of {self.length} tokens that differ {self.differs} from the end"
        )


SMALL = Size(layers=4, d_model=64, d_head=8, d_mlp=256, vocab=2000, pairs=2, length=12, differs=5)
"""For trying the benchmark out: its numbers mean nothing."""
GEMMA_2B = Size(
    layers=18, d_model=2048, d_head=256, d_mlp=16_384, vocab=256_000, pairs=32, length=24, differs=10
)  # fmt: skip
"""gemma-2b's true shape."""


def random_model(size: Size, *, architecture: str = "gemma", dtype: Any = "float32", device: str = "cpu") -> Model:
    """A model of that size, with random weights large enough that every site matters."""
    import transformers

    config = _config(size, architecture)

    def drawn(*_: Any, **kwargs: Any) -> tuple[Any, Mapping[str, list[str]]]:
        torch.manual_seed(0)
        with torch.device(device):
            hf = transformers.AutoModelForCausalLM.from_config(
                config, dtype=kwargs["dtype"], attn_implementation=kwargs["attn_implementation"]
            )
        return hf, {"missing_keys": []}

    with tempfile.TemporaryDirectory(prefix="random-") as folder:
        config.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        (Path(folder) / "model.safetensors").touch()  # the loader looks for one; nothing reads it
        with mock.patch.object(transformers.AutoModelForCausalLM, "from_pretrained", drawn):
            return load(folder, dtype=dtype, device=device)


def _config(size: Size, architecture: str) -> Any:
    import transformers

    common: dict[str, Any] = {
        "vocab_size": size.vocab, "hidden_size": size.d_model, "intermediate_size": size.d_mlp,
        "num_hidden_layers": size.layers, "num_attention_heads": size.heads, "num_key_value_heads": size.kv_heads,
        "head_dim": size.d_head, "max_position_embeddings": 256, "initializer_range": size.d_model**-0.5,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
        "architectures": ["GemmaForCausalLM" if architecture == "gemma" else "Gemma2ForCausalLM"],
    }  # fmt: skip
    if architecture == "gemma":
        return transformers.GemmaConfig(**common)
    # as Gemma 2 is, but with a window that is shorter than the prompts, so that it acts
    return transformers.Gemma2Config(
        **common, sliding_window=max(2, size.length * 3 // 5), attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
        query_pre_attn_scalar=size.d_head,
    )  # fmt: skip


def random_pairs(size: Size, model: Model) -> TokenPairs:
    """Random words, of which one differs."""
    generator = torch.Generator().manual_seed(1)
    made: list[tuple[str, str]] = []
    for _ in range(size.pairs):
        words = [WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[: size.length].tolist()]
        clean, other = words[:-1], words[-1]
        corrupt = [*clean]
        corrupt[-size.differs] = other
        made.append((" ".join(clean), " ".join(corrupt)))
    return PairSet.from_pairs(made).tokenize(model)
