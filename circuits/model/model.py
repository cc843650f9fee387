"""The handle on a loaded model: its modules, its shape, what was proved of it, and its honest name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits import display
from circuits.errors import SiteError
from circuits.model.parts import Parts
from circuits.model.resolve import Origin
from circuits.sites import Site


@final
@dataclass(frozen=True)
class Shape:
    """The sizes that name every axis."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int

    def tail(self, site: Site, n_pos: int) -> tuple[int, ...]:
        """The axes of a site after [pair, pos]; `n_pos` is how many keys a pattern has."""
        heads = self.n_kv_heads if site.kind in ("k", "v") else self.n_heads
        last = {
            **dict.fromkeys(("q", "k", "v", "z"), self.d_head), "pattern": n_pos, "post": self.d_mlp,
        }.get(site.kind, self.d_model)  # fmt: skip
        if site.kind == "post" and site.index is not None:
            return (1,)
        return (heads, last) if site.has_heads and site.index is None else (last,)

    def count(self, site: Site) -> int:
        """How many heads (of k and v: key-value heads; of post: neurons) a site has; 0 where it has none."""
        if site.kind == "post":
            return self.d_mlp
        return 0 if not site.has_heads else self.n_kv_heads if site.kind in ("k", "v") else self.n_heads


@final
@dataclass(frozen=True, eq=False)
class Model:
    """A model as the rest of the package sees it.

    `hf` runs raw Hugging Face numerics with eager attention, nothing folded; `bridge` is transformer-lens' view of the
    same parameters, for whoever wants to go on with that library.
    """

    name: str
    origin: Origin
    hf: Any
    bridge: Any
    tokenizer: Any
    parts: Parts
    shape: Shape
    softcap: float | None
    """Cap of the output logits: `cap * tanh(logits / cap)`; None where logits are linear in the final residual."""
    hash: str
    """Short hash of the configuration and of a sample of every parameter's values: an edit of few weights may keep it."""
    facts: dict[str, float]
    """What load() proved, with the numbers it measured."""
    edits: str = ""
    """What was changed in the weights after they were read; "" where nothing was."""

    @property
    def title(self) -> str:
        """The name every output carries; it says of a bundled model that it is not Gemma, and of edits that they are there."""
        n = sum({id(p): p.numel() for p in self.hf.parameters()}.values())
        size = f"{n / 1e9:.1f} B" if n >= 1e9 else f"{n / 1e6:.1f} M" if n >= 1e5 else f"{n / 1e3:.0f} K"
        architecture = type(self.hf).__name__.removesuffix("ForCausalLM")
        where = {"bundled": "bundled, ", "folder": "local folder, ", "hub": ""}[self.origin]
        disclaimer = f"; not {architecture.rstrip('0123456789')}" if self.origin == "bundled" else ""
        changed = f"; weights edited in memory: {self.edits}" if self.edits else ""
        return f"{self.name} ({where}{size} parameters, {architecture} architecture{disclaimer}{changed})"

    @property
    def device(self) -> torch.device:
        return next(self.hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hf.parameters()).dtype

    @property
    def W_U(self) -> Float[Tensor, "d_vocab d_model"]:  # noqa: N802  the field's name for it
        """Unembedding, one row per token; tied to the embedding where the model ties them."""
        return self.parts.unembed.weight  # type: ignore[return-value]  nn.Module types its attributes loosely

    def logits(
        self, tokens: Int[Tensor, "row pos"], mask: Bool[Tensor, "row pos"], *, keep: int = 0
    ) -> Float[Tensor, "row _ d_vocab"]:
        """Forward pass of the whole model; `keep` last positions only (0: all). Padding is masked, not run through."""
        with torch.no_grad():
            return self.hf(
                input_ids=tokens.to(self.device),
                attention_mask=mask.to(self.device).long(),
                position_ids=position_ids(mask).to(self.device),
                use_cache=False,
                logits_to_keep=keep,
            ).logits

    def check_layers(self, layers: Any, what: str = "layers") -> tuple[int, ...]:
        """Layers as a tuple. Raises SiteError naming those out of range, or if there are none."""
        chosen = tuple(int(layer) for layer in layers)
        if not chosen:
            raise SiteError(f"{what}: no layer given; this model has layers 0 to {self.shape.n_layers - 1}")
        wrong = [layer for layer in chosen if not 0 <= layer < self.shape.n_layers]
        if wrong:
            raise SiteError(
                f"{what}: layer {', '.join(map(str, wrong))} out of range; "
                f"{self.name} has layers 0 to {self.shape.n_layers - 1}"
            )
        return chosen

    def __repr__(self) -> str:
        proved = ", ".join(f"{fact} {value:.1e}" for fact, value in self.facts.items())
        lacking = "".join(f"\n  no {kind}: {reason}" for kind, reason in self.parts.lacking.items())
        return f"{self.title}\n  {self.shape}\n  proved on load: {proved}{lacking}"

    def _repr_html_(self) -> str:
        sizes = [(name, getattr(self.shape, name)) for name in self.shape.__dataclass_fields__]
        cap = [] if self.softcap is None else [("output logits capped at", self.softcap)]
        run = [("dtype", str(self.dtype).removeprefix("torch.")), ("device", self.device), ("hash", self.hash)]
        proved = [(f"proved on load: {fact}", f"{value:.1e}") for fact, value in self.facts.items()]
        lacking = [(f"no {kind}", reason) for kind, reason in self.parts.lacking.items()]
        return display.card(self.title, display.facts([*sizes, *cap, *run, *proved, *lacking]))


def position_ids(mask: Bool[Tensor, "row pos"]) -> Int[Tensor, "row pos"]:
    """Positions counted from each prompt's first real token, so that left-padding does not move them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
