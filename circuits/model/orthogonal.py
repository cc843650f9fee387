"""A direction taken out of the weights: every matrix that writes to the residual stream writes 1 − alpha of it.

    W ← W − alpha · (what W writes along v) v     embedding, learned positions, W_O and b_O, the MLP's last W and b

All that enters the residual stream is then what `ablate_everywhere(v, all layers, alpha=alpha)` leaves of it at run time:
both are linear in each write. Norms, and the unembedding, which reads, stay as they were; an unembedding that was tied to
the embedding is untied. A norm between matrix and residual stream (Gemma 2 and 3, OLMo 2) scales what it lets through by
its whole input: no matrix is then equal to the run-time edit, and such a model is refused.

The copy lives in memory. It cannot be written to disk: what is kept of an edit is its direction (`edits.save_edits`).
Source: Arditi et al., arXiv 2406.11717, weight orthogonalisation.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.errors import ModelError, SiteError
from circuits.linalg import unit
from circuits.model.assemble import assemble, shared_copy
from circuits.model.edit_file import Stored
from circuits.model.hooks import Edit, hooked
from circuits.model.model import Model
from circuits.model.resolve import Place
from circuits.model.value_path import post_norm
from circuits.sites import Site

_TOLERANCE: Final = {torch.float32: 1e-4, torch.float64: 1e-5}
"""How far the edited weights may be from the run-time edit, as a share of the largest logit.

Softmax and norms are computed in single precision whatever the model's dtype."""
AT_RUN_TIME: Final = "edit at run time instead: ablate_everywhere(direction, range(n_layers)), with sweep or generate"


def orthogonalised(model: Model, direction: Float[Tensor, " d_model"], *, alpha: float = 1.0) -> Model:
    """A copy of the model that writes 1 − alpha of every write along `direction` (any norm); proved again as load() does.

    What is not edited shares its memory with the original. The title says that weights were edited, the hash differs, and
    `facts` hold the distance from the run-time edit. Raises ModelError for another width, for post-norms and experts, and
    where weights and run-time edit disagree; UndefinedError for a direction of norm zero.
    """
    if tuple(direction.shape) != (model.shape.d_model,):
        raise ModelError(
            f"{model.name}: a direction of shape {tuple(direction.shape)}; its residual stream has {model.shape.d_model}"
        )
    if not math.isfinite(alpha):
        raise ModelError(f"alpha is {alpha}; give the share to remove, 1 for all of it")
    v = unit(direction.double().cpu())
    writers = _writers(model)
    names = {id(module): name for name, module in model.hf.named_modules()}
    tree = shared_copy(model.hf)
    _untie(tree)
    done: dict[int, nn.Parameter] = {}
    for module, output_last in writers:
        copied: Any = tree.get_submodule(names[id(module)])
        copied.weight = _without(copied.weight, v, alpha, done, last=output_last)
        if getattr(copied, "bias", None) is not None:
            copied.bias = _without(copied.bias, v, alpha, done, last=True)
    tree.set_attn_implementation("eager")
    place = Place(model.name, model.origin, model.hf.name_or_path)
    found = assemble(place, tree, model.tokenizer)
    for each in (found.hf, tree):
        each.save_pretrained = each.push_to_hub = _never_written
    gap = _gap(model, found, v, alpha)
    if not gap <= _TOLERANCE.get(model.dtype, 5e-2):
        raise ModelError(
            f"{model.name}: with edited weights the logits are {gap:.1e} of their size from the run-time edit; something "
            f"stands between its matrices and the residual stream\n{AT_RUN_TIME}"
        )
    sign = hashlib.sha256(v.numpy().tobytes()).hexdigest()[:8]
    share = "" if alpha == 1 else f"{alpha:g} of "
    return replace(
        found, facts={**found.facts, "edited weights against the run-time edit": gap},
        edits="; ".join(filter(None, (model.edits, f"{share}direction {sign} removed"))),
        hash=hashlib.sha256(f"{model.hash} {sign} {float(alpha)!r}".encode()).hexdigest()[:12],
    )  # fmt: skip


def in_weights(stored: Stored) -> tuple[tuple[Float[Tensor, " d_model"], float], ...]:
    """The directions, with alpha, that stored edits ablate everywhere, in their order.

    Raises ModelError naming the first operation that weights cannot express, and the way at run time.
    """
    layers = range(stored.n_layers)
    everywhere = {Site("resid_pre", 0), *(Site(kind, layer) for layer in layers for kind in ("attn_out", "mlp_out"))}
    way = f"use them at run time: load_edits({str(stored.folder)!r}).cell, with sweep or generate"
    at: dict[Site, list[tuple[bytes, Tensor, float]]] = {site: [] for site in everywhere}
    for i, operation in enumerate(stored.operations):
        if operation.op != "ablate" or operation.positions != "all" or operation.site not in everywhere:
            raise ModelError(
                f"{stored.folder}: operation {i}, {operation.said}, cannot be made in the weights, which hold ablations of "
                f"directions from every write and at all positions alone\n{way}"
            )
        v = operation.tensor.double()
        at[operation.site].append((v.numpy().tobytes(), v, 1.0 if operation.number is None else operation.number))
    wanted = at[Site("resid_pre", 0)]
    for site in sorted(everywhere):
        if [(v, alpha) for v, _, alpha in at[site]] != [(v, alpha) for v, _, alpha in wanted]:
            raise ModelError(
                f"{stored.folder}: what is ablated at {site.label} is not what is ablated at L0.resid_pre; weights take a "
                f"direction out of every write or of none\n{way}"
            )
    return tuple((v, alpha) for _, v, alpha in wanted)


def edited(model: Model, stored: Stored) -> Model:
    """The model with stored edits in its weights; its title says whose they are, and if another model's.

    Raises ModelError as `in_weights` and `orthogonalised` do, and for a model of other width or depth.
    """
    ablations = in_weights(stored)
    require_size(model, stored)
    own = model.hash
    for direction, alpha in ablations:
        model = orthogonalised(model, direction, alpha=alpha)
    other = (
        "" if stored.model_hash == own else f", found on {stored.model} of hash {stored.model_hash}, not on this model"
    )
    return replace(model, edits=f"{model.edits} (edits {stored.folder.name!r}{other})")


def require_size(model: Model, stored: Stored) -> None:
    """Raise ModelError where stored edits are of another number of layers or another width than a model."""
    shape = model.shape
    if (stored.n_layers, stored.d_model) != (shape.n_layers, shape.d_model):
        raise ModelError(
            f"{stored.folder}: found on {stored.model}, with {stored.n_layers} layers of width {stored.d_model}; {model.name} "
            f"has {shape.n_layers} of width {shape.d_model}; choose directions on this model"
        )


def _writers(model: Model) -> list[tuple[nn.Module, bool]]:
    """Every module that writes to the residual stream, and whether its output is its weight's last axis."""
    mapping: Any = model.bridge.adapter.component_mapping
    found: list[nn.Module] = [model.parts.embed]
    if "pos_embed" in mapping and mapping["pos_embed"].name:
        found.append(model.hf.get_submodule(mapping["pos_embed"].name))
    for layer in range(model.shape.n_layers):
        try:
            last = model.parts.locate(Site("post", layer)).module
        except SiteError as error:
            raise ModelError(f"{model.name}: {error}: no one matrix writes what its MLP does\n{AT_RUN_TIME}") from error
        written = model.parts.locate(Site("mlp_out", layer)).module
        if post_norm(model, layer) is not None or not any(module is last for module in written.modules()):
            raise ModelError(
                f"{model.name}: a norm stands between the matrices of L{layer} and the residual stream, so that no edit of a "
                f"matrix is equal to the ablation\n{AT_RUN_TIME}"
            )
        found += [model.parts.locate(Site("z", layer)).module, last]
    return [(module, _output_last(model, module)) for module in found]


def _output_last(model: Model, module: nn.Module) -> bool:
    if isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D":
        return True
    if type(module) is nn.Linear:
        return False
    raise ModelError(
        f"{model.name}: what a {type(module).__name__} writes is not read from a plain matrix here\n{AT_RUN_TIME}"
    )


def _without(
    old: Float[Tensor, ...], v: Float[Tensor, " d_model"], alpha: float, done: dict[int, nn.Parameter], *, last: bool
) -> nn.Parameter:
    """1 − alpha of what a weight or bias writes along v; computed in double. A weight used twice is edited once."""
    if id(old) not in done:
        w = old.detach().double()
        u = v.to(w.device)
        along = (w @ u)[..., None] * u if last else u[:, None] * (u @ w)
        done[id(old)] = nn.Parameter((w - alpha * along).to(old.dtype), requires_grad=False)
    return done[id(old)]


def _untie(tree: Any) -> None:
    """The unembedding keeps its weights: nothing may tie it to the edited embedding again."""
    for config in (tree.config, tree.config.get_text_config()):
        config.tie_word_embeddings = False
    if hasattr(tree, "all_tied_weights_keys"):
        tree.all_tied_weights_keys = {}


def _never_written(*_: Any, **__: Any) -> NoReturn:
    raise ModelError(
        "a model with edited weights is not written to disk; keep its direction: edits.save_edits(path, cell)"
    )


def _gap(model: Model, found: Model, v: Float[Tensor, " d_model"], alpha: float) -> float:
    """Largest difference of the logits of a few random tokens from the run-time edit of the original, by their size."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.shape.d_vocab, (2, 12), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)

    def ablated(u: Tensor, a: Tensor) -> Tensor:
        return a - alpha * (a @ u)[..., None] * u

    edit: Edit = partial(ablated, v.to(model.device, model.dtype))
    layers = range(model.shape.n_layers)
    sites = [Site("resid_pre", 0), *(Site(kind, layer) for layer in layers for kind in ("attn_out", "mlp_out"))]
    with hooked(model.parts, dict.fromkeys(sites, edit)):
        expected = model.logits(ids, mask)
    return float((found.logits(ids, mask) - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
