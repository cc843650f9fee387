"""Tiny random checkpoints of several architectures, written as Hugging Face folders, and a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing

WORDS = [f"w{i}" for i in range(80)]
_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]


def tokenizer() -> Any:
    """Whitespace words `w0` … `w79`, with a <bos> added by the post-processor; no chat template."""
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate([*_SPECIAL, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )


_SIZES: dict[str, Any] = {
    "vocab_size": 84, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "initializer_range": 0.25,
}  # fmt: skip


def config(architecture: str) -> Any:
    """A configuration with every trait that makes the architecture hard: grouped heads, windows, caps, post-norms."""
    import transformers as hf

    match architecture:
        case "gemma":
            return hf.GemmaConfig(**_SIZES, num_key_value_heads=1, head_dim=8)
        case "gemma2":
            return hf.Gemma2Config(
                **_SIZES, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=4,
                attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
            )  # fmt: skip
        case "llama":
            return hf.LlamaConfig(**_SIZES, num_key_value_heads=2)
        case "qwen2":
            return hf.Qwen2Config(**_SIZES, num_key_value_heads=2)
        case _:
            raise ValueError(architecture)


ARCHITECTURES = ("gemma", "gemma2", "llama", "qwen2")


def write(architecture: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a random checkpoint with its tokenizer; norm weights are random too, so that a forgotten one shows."""
    import transformers as hf

    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config(architecture))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0 if "gemma" in architecture or "bias" in name else 1.0, 0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
