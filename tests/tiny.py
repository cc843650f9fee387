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
    "vocab_size": 84, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "initializer_range": 0.25,
    "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
_GROUPED = _SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
_WINDOW = {"sliding_window": 4}  # shorter than most prompts of the tests
_IN_TURN = _WINDOW | {"layer_types": ["sliding_attention", "full_attention"] * 2}
_PARTLY_ROTATED = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    # embeddings scaled; one key and value head for all
    "gemma": ("GemmaConfig", _GROUPED | {"num_key_value_heads": 1, "head_dim": 8}),
    # norms after attention and MLP too, a window in every other layer, soft caps of attention and logits
    "gemma2": ("Gemma2Config", _GROUPED | _IN_TURN | {
        "head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    }),
    # queries and keys normalised by head; layers with a window rotate otherwise than those without
    "gemma3": ("Gemma3TextConfig", _GROUPED | _IN_TURN | {"head_dim": 8, "query_pre_attn_scalar": 6}),
    "llama": ("LlamaConfig", _GROUPED),
    # a window in every layer
    "mistral": ("MistralConfig", _GROUPED | _WINDOW),
    # biases of queries, keys and values
    "qwen2": ("Qwen2Config", _GROUPED),
    # queries and keys normalised by head; heads that together are wider than the residual stream
    "qwen3": ("Qwen3Config", _GROUPED | _IN_TURN | {"use_sliding_window": True, "head_dim": 12}),
    # one projection [q|k|v], one [gate|up], and a window in every layer
    "phi3": ("Phi3Config", _GROUPED | _WINDOW),
    # one projection [q|k|v], stored input first; learned positions, LayerNorms, biases everywhere
    "gpt2": ("GPT2Config", _SIZES | {"n_inner": 48}),
    # one projection, [q|k|v] of each head in turn; half of each head rotated; attention beside the MLP
    "gpt_neox": ("GPTNeoXConfig", _SIZES | {"intermediate_size": 48, "rope_parameters": _PARTLY_ROTATED}),
    # norms after attention and MLP alone; queries and keys normalised over all heads together
    "olmo2": ("Olmo2Config", _GROUPED),
}  # fmt: skip
ARCHITECTURES = tuple(_CONFIGS)


def config(architecture: str) -> Any:
    """A configuration with every trait that makes the architecture hard."""
    import transformers

    name, traits = _CONFIGS[architecture]
    return getattr(transformers, name)(**traits)


def write(architecture: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a random checkpoint with its tokenizer; norms and biases are random too, so that a forgotten one shows."""
    import transformers as hf

    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config(architecture))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            # Gemma multiplies by 1 + weight, all others by the weight
            torch.nn.init.normal_(parameter, 0.0 if "gemma" in architecture or "bias" in name else 1.0, 0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
