"""Ablate one component, and take the change in the metric apart exactly.

    change in metric = direct + final norm + every later head + every later MLP (+ post-norms) (+ nonlinear)

direct      the component's own change at the last position, through the intact run's final-norm scale
final norm  what the ablated run's other final-norm scale does to everything that is there
later       each head's z W_O (in post-norm models through the ablated run's post-norm, whose other scale is a term of
            its own) and each MLP's output: their own change through the intact scale; `share` = change/−direct, per pair

Only the last position is read: a component ablated elsewhere has no direct effect (no share) and acts through later
heads. An MLP parallel to an ablated attention is not later. Zero, mean, patched and direction ablation give different
verdicts. Null: the same ablation of other components of that kind (heads: of that layer; blocks: of other layers).
Source: McGrath et al., arXiv 2307.15771 (the Hydra effect); Rushing and Nanda, arXiv 2402.15390 (final-norm share).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import mean_activations
from circuits.engine.edits import check
from circuits.engine.read import On
from circuits.errors import AuditError, SiteError
from circuits.interventions import Ablate, Cell, Patch
from circuits.measure.repair_identity.result import RepairIdentity
from circuits.measure.repair_identity.terms import Decomposer, Terms
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.align import Positions, TokenPairs
from circuits.sites import Site, head
from circuits.tables import KINDS, provenance

Ablation = Literal["zero", "mean", "patch"] | Float[Tensor, " d_model"]
"""zero; the mean over all prompts given, per column; the pair's other run; or a direction removed from the output."""
_TOLERANCE: Final = {torch.float32: 1e-5, torch.float64: 1e-5}
"""Of the residual, as a share of what is added up; reduced precision is allowed 5 %."""


def decompose_repair(  # noqa: PLR0913  what is ablated, how, where and on which prompts are four knobs
    model: Model, tokens: TokenPairs, metric: Metric, component: Site, *, ablation: Ablation = "mean",
    positions: Positions = "last", on: On = "clean", null_draws: int = 10, seed: int = 0,
) -> RepairIdentity:  # fmt: skip
    """Decompose the ablation of a head, an attention block or an MLP. Units of the metric; terms in double, runs as loaded.

    Raises SiteError for what is no such component or is not there, UndefinedError for a direction of norm zero, before
    anything is run; UndefinedError where nothing at all enters a post-norm, ModelError for norms of another form;
    AuditError where the terms do not add up to the change.
    """
    _require(model, component)
    tokens.position_mask(positions)
    bound = metric.bind(tokens)
    others = _others(model, component, null_draws, seed)
    cells = _cells(model, tokens, (component, *others), ablation, positions)
    decomposer = Decomposer(model, tokens, bound, on=on, first=min(site.layer for site in (component, *others)))
    null = [_split(model, site, decomposer.terms(cell)) for site, cell in zip(others, cells[1:], strict=True)]
    found = _split(model, component, decomposer.terms(cells[0]))
    first_head, first_mlp = _first_later(model, component)
    return RepairIdentity(
        provenance=provenance(model, tokens, metric), **found,
        **_null(null, tokens.n_pairs), null_components=tuple(site.label for site in others), component=component.label,
        ablation=f"{ablation} ablation" if isinstance(ablation, str) else "direction removed",
        positions=str(positions), on=on, first_head_layer=first_head, first_mlp_layer=first_mlp,
        post_normed=decomposer.post_normed, linear=decomposer.linear,
    )  # fmt: skip


def _require(model: Model, component: Site) -> None:
    if component.kind not in ("z", *KINDS) or (component.kind == "z" and component.index is None):
        raise SiteError(f'{component.label}: give a head, head(3, 0), or a block, Site("attn_out", 3), Site("mlp_out", 3)')
    model.check_layers([component.layer], component.label)


def _others(model: Model, component: Site, n: int, seed: int) -> tuple[Site, ...]:
    """The null's components: heads of the same layer, or blocks of other layers that have something later."""
    if component.kind == "z":
        pool = [head(component.layer, h) for h in range(model.shape.n_heads)]
    else:
        pool = [Site(component.kind, layer) for layer in range(model.shape.n_layers)]
        pool = [site for site in pool if min(_first_later(model, site)) < model.shape.n_layers]
    pool = [site for site in pool if site != component]
    return tuple(random.Random(seed).sample(pool, min(n, len(pool))))  # noqa: S311  not for secrets


def _cells(
    model: Model, tokens: TokenPairs, sites: Sequence[Site], ablation: Ablation, positions: Positions
) -> list[Cell]:
    """One ablation per component, checked before anything is run."""
    if isinstance(ablation, Tensor):
        # a head's z has d_head numbers: its output, where a direction of the residual stream lies, is its result
        written = [Site("result", site.layer, site.index) if site.kind == "z" else site for site in sites]
        cells: list[Cell] = [(Ablate(site, ablation, positions),) for site in written]
    elif ablation == "zero":
        cells = [(Patch(site, positions, torch.zeros(())),) for site in sites]
    else:
        cells = [(Patch(site, positions),) for site in sites]
    for cell in cells:
        check(model, tokens, cell)
    if isinstance(ablation, str) and ablation == "mean":
        means = mean_activations(model, tokens, sites)
        return [(Patch(site, positions, means[site]),) for site in sites]
    return cells


def _first_later(model: Model, component: Site) -> tuple[int, int]:
    """The first layers whose heads and whose MLP read what the component writes."""
    after = component.layer + 1
    beside = component.kind == "mlp_out" or "resid_mid" in model.parts.lacking  # parallel: read the same residual
    return after, after if beside else component.layer


def _split(model: Model, component: Site, terms: Terms) -> dict[str, Float[Tensor, "pair ..."]]:
    """Own and later terms, and what they leave of the measured change. Raises AuditError where that is too much."""
    layer, first = component.layer, _first_later(model, component)
    own = {"attn_out": terms.attn[:, layer], "mlp_out": terms.mlps[:, layer]}
    is_head = component.kind == "z"
    split = {
        "direct": terms.heads[:, layer, component.index] if is_head else own[component.kind],
        "own_post_norm": terms.post_norms[:, layer] if is_head else torch.zeros_like(terms.intact),
        "final_norm": terms.final_norm, "nonlinear": terms.nonlinear,
        "heads": _from(terms.heads, first[0]), "post_norms": _from(terms.post_norms, first[0]),
        "mlps": _from(terms.mlps, first[1]),
    }  # fmt: skip
    flat = torch.cat([t.reshape(len(t), -1) for t in split.values()], 1)
    residual = terms.ablated - terms.intact - flat.sum(1)
    size = torch.stack([flat.abs().sum(1), terms.intact.abs(), terms.ablated.abs()]).amax(0)
    worst = (residual.abs() / size.clamp(min=1e-12)).max().item()
    allowed = _TOLERANCE.get(model.dtype, 5e-2)
    if not worst <= allowed:
        raise AuditError(
            f"{model.name}: the terms of {component.label} miss the measured change by {worst:.1e} of what is added up "
            f"(at most {allowed:.0e}); this architecture writes to the residual stream in a way not known here"
        )
    whole = {"intact": terms.intact, "ablated": terms.ablated, "residual": residual}
    return {name: t.float() for name, t in (split | whole).items()}


def _from(change: Float[Tensor, "pair layer *head"], first: int) -> Float[Tensor, "pair layer *head"]:
    """Changes of the layers from `first` on."""
    kept = change.clone()
    kept[:, :first] = 0
    return kept


def _null(splits: Sequence[Mapping[str, Tensor]], n_pairs: int) -> dict[str, Float[Tensor, "cell pair"]]:
    """The sums of every ablation of the null."""
    sums = {
        "null_direct": [split["direct"] for split in splits],
        "null_later": [split["heads"].sum((1, 2)) + split["mlps"].sum(1) + split["post_norms"].sum(1) for split in splits],
        "null_final_norm": [split["final_norm"] for split in splits],
        "null_total": [split["ablated"] - split["intact"] for split in splits],
    }
    return {name: torch.stack(cells) if cells else torch.zeros(0, n_pairs) for name, cells in sums.items()}
