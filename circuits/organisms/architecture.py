"""What differs between the organisms: sizes, configuration, and which modules write to the residual stream."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from transformers import Gemma2Config, GemmaConfig, PreTrainedConfig, Qwen2Config

Name = Literal["gemma", "gemma2", "qwen2"]


@dataclass(frozen=True)
class Sizes:
    """Widths and counts that every architecture has."""

    layers: int = 8
    width: int = 64
    heads: int = 8
    head_width: int = 16
    mlp_width: int = 256


@dataclass(frozen=True)
class Vocabulary:
    """What a configuration says of the tokenizer: rows of the embedding, and the ids of special tokens."""

    rows: int
    pad: int
    bos: int | None
    ends: list[int]


@dataclass(frozen=True)
class Architecture:
    """One family: how its configuration follows from the sizes, and where its blocks write."""

    family: str
    config: type[PreTrainedConfig]
    kv_heads: int
    own: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the configuration that only this family has, or sets otherwise than the others."""
    sizes: Sizes = Sizes()
    """The sizes of the organism that is trained by default."""
    kernel: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel of the training; only the eager one caps attention scores."""
    attention: str = "self_attn"
    """Module of a block whose output is what attention adds to the residual stream."""
    mlp: str = "mlp"
    """Module of a block whose output is what the MLP adds to the residual stream."""
    embedding_gain: float = 1.0
    """How much longer than drawn the embedding starts. It must outweigh what the first block adds, as Gemma's does: else
    the first layers bury the subject, and the model learns a lookup in layer 0."""
    post_norm_gain: float | None = None
    """The gain post-norms start from, for the same reason: at 1 the first write is twice the embedding."""

    @property
    def brand(self) -> str:
        """Whose name an organism must not be taken for."""
        return self.family.split(" ")[0]

    def configure(self, sizes: Sizes, words: Vocabulary) -> PreTrainedConfig:
        """The configuration of an untrained model with tied embeddings."""
        fields: dict[str, Any] = {
            "vocab_size": words.rows,
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp_width,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": sizes.head_width,
            "max_position_embeddings": 256,
            "initializer_range": 0.5 / sizes.width**0.5,
            "tie_word_embeddings": True,
            "pad_token_id": words.pad,
            "bos_token_id": words.bos,
            "eos_token_id": words.ends,
        }
        return self.config(**{**fields, **self.own})


ARCHITECTURES: Final[dict[Name, Architecture]] = {
    "gemma": Architecture("Gemma", GemmaConfig, kv_heads=1),
    "gemma2": Architecture(
        "Gemma 2",
        Gemma2Config,
        kv_heads=4,
        own={
            "query_pre_attn_scalar": 8,  # width by heads, not the head's width: the two cannot be confused unnoticed
            "sliding_window": 16,  # in layers 0, 2, 4 ...; the longest prompts have about 60 tokens
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        kernel="eager",
        attention="post_attention_layernorm",
        mlp="post_feedforward_layernorm",
        post_norm_gain=0.3,
    ),
    "qwen2": Architecture(
        "Qwen 2",
        Qwen2Config,
        kv_heads=2,
        own={"initializer_range": 0.02},
        sizes=Sizes(width=96, heads=6),
        embedding_gain=3.0,
    ),
}
"""By the `model_type` of the configuration."""
