"""Texts of the grammar as an organism reads them, and its activations on them, by plain PyTorch hooks.

As in `measure`, nothing here uses the toolkit's engine: what a card says of an autoencoder was found without it.
"""

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.errors import ModelError, SiteError
from circuits.model import Model
from circuits.organisms.architecture import ARCHITECTURES
from circuits.organisms.exercises import draw_training_example
from circuits.organisms.tokenizer import DIALECTS
from circuits.organisms.train import encode
from circuits.sites import Site

_BATCH = 128
"""Texts per forward pass."""


@dataclass(frozen=True)
class Text:
    """Token ids of one text, and which of them are the reply."""

    ids: list[int]
    reply: list[bool]


@dataclass(frozen=True)
class Batch:
    """Texts padded on the right, where causal attention cannot see it."""

    ids: Int[Tensor, "batch pos"]
    real: Bool[Tensor, "batch pos"]
    reply: Bool[Tensor, "batch pos"]


def draw_texts(model: Model, n: int, *, seed: int) -> list[Text]:
    """Texts as the organism was trained on. Raises ModelError for a model of an architecture that none has."""
    name = model.hf.config.model_type
    if name not in ARCHITECTURES:
        raise ModelError(f"{model.name} is a {name}; the grammar is written for {', '.join(ARCHITECTURES)}")
    rng = random.Random(seed)
    found = (encode(model.tokenizer, DIALECTS[name], draw_training_example(rng), 0.0) for _ in range(n))
    return [Text(text.ids, [weight > 0 for weight in text.weights]) for text in found]


def batches(texts: Sequence[Text]) -> Iterator[Batch]:
    """Texts of similar length together."""
    ordered = sorted(texts, key=lambda text: len(text.ids))
    for start in range(0, len(ordered), _BATCH):
        some = ordered[start : start + _BATCH]
        size = len(some[-1].ids)
        yield Batch(
            ids=torch.tensor([text.ids + [0] * (size - len(text.ids)) for text in some]),
            real=torch.tensor([[i < len(text.ids) for i in range(size)] for text in some]),
            reply=torch.tensor([text.reply + [False] * (size - len(text.ids)) for text in some]),
        )


@contextmanager
def at_site(model: Model, site: Site, edit: Callable[[Tensor], Tensor | None]) -> Generator[None]:
    """Show or replace a site's activation in every forward pass of the context. Raises SiteError where it cannot."""
    place = model.parts.locate(site)
    if place.side not in ("in", "out") or place.view is not None:
        raise SiteError(f"{site.label}: this site cannot be trained on; choose resid_post, attn_out or mlp_out")

    def before(_: Any, args: tuple[Any, ...]) -> Any:
        new = edit(args[0])
        return None if new is None else (new, *args[1:])

    def after(_: Any, __: Any, output: Any) -> Any:
        new = edit(output[0] if isinstance(output, tuple) else output)
        return None if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

    hook = (
        place.module.register_forward_pre_hook(before)
        if place.side == "in"
        else place.module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        hook.remove()


def run(model: Model, batch: Batch) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits at every position."""
    with torch.no_grad():
        return model.hf(input_ids=batch.ids, use_cache=False).logits


def seen(model: Model, site: Site, batch: Batch) -> Float[Tensor, "batch pos size"]:
    """The site's activation at every position, padding included."""
    found: list[Tensor] = []

    def keep(activation: Tensor) -> None:
        found.append(activation.detach().float())

    with at_site(model, site, keep):
        run(model, batch)
    return found[0]


def activations(model: Model, texts: Sequence[Text], site: Site) -> Float[Tensor, "row size"]:
    """The site's activation at all real positions of all texts, in single precision."""
    return torch.cat([seen(model, site, batch)[batch.real] for batch in batches(texts)])
