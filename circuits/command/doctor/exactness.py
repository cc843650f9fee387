"""Whether the engine is exact on this machine: a sweep of mixed cells, each against a whole forward pass of its own.

The sweep resumes one kept run and batches its cells; the passes resume nothing and batch nothing. What was patched from is
besides held against the model's own logits, which no code of the engine makes. Fails where a number differs by more than the
sweep's certificate allows, or where the sweep fails its own audit.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from circuits.command.doctor.check import Check
from circuits.errors import AuditError

if TYPE_CHECKING:
    from circuits.engine.sweep import Direction
    from circuits.interventions import Cell
    from circuits.metrics import Metric
    from circuits.model import Model
    from circuits.prompts import TokenPairs

N_PAIRS: Final = 4
_REMEDY: Final = (
    "do not use numbers from this installation: install the tested versions (python -m pip install -c constraints.txt …),\n"
    "and if that does not help, report this output"
)


def check(n_pairs: int = N_PAIRS) -> Check:
    """Measure the default bundled model on a few pairs, denoising and noising."""
    from circuits.case import few_threads
    from circuits.metrics import RefusalMetric
    from circuits.model import load
    from circuits.prompts import toy_refusal_pairs

    began = time.perf_counter()
    model = load()
    few_threads(sum(p.numel() for p in model.hf.parameters()))
    tokens = toy_refusal_pairs()[:n_pairs].tokenize(model)
    cells = mixed_cells(model)
    metric = RefusalMetric(model, "I")
    try:
        found = [compare(model, tokens, metric, cells, direction) for direction in ("denoise", "noise")]
    except AuditError as error:
        return Check("exactness", "failed", str(error), _REMEDY)
    deviation, limit = max(gap for gap, _ in found), min(allowed for _, allowed in found)
    n = 2 * len(cells) * n_pairs
    said = f"{n} patched values against forward passes of their own: largest deviation {deviation:.1e} (at most {limit:.1e})"
    details = {"values": n, "deviation": deviation, "limit": limit, "model": model.title, "device": str(model.device)}
    seconds = f"; {time.perf_counter() - began:.1f} s with {model.name} on {model.device}"
    if math.isnan(deviation) or deviation > limit:
        return Check("exactness", "failed", said + seconds, _REMEDY, details)
    return Check("exactness", "ok", said + seconds, details=details)


def mixed_cells(model: Model) -> list[Cell]:
    """Cells of every kind: one site at one position, several, whole runs; patches, directions, attention patterns.

    The first takes the whole source run.
    """
    import torch

    from circuits.interventions import Ablate, Add, Patch, ablate_everywhere
    from circuits.sites import Site, head, neuron

    n_layers, m = model.shape.n_layers, model.shape.n_layers // 2
    along = torch.randn(model.shape.d_model, generator=torch.Generator().manual_seed(0)).to(model.device)
    return [
        (Patch(Site("resid_pre", 0), "all"),),
        (Patch(Site("resid_pre", m), "subject"),),
        (Patch(Site("resid_mid", 1), "last"),),
        (Patch(Site("attn_out", m), "last"),),
        (Patch(Site("mlp_out", 0), "subject"),),
        (Patch(Site("mlp_out", m), "all"),),
        (Patch(head(m, 1), "last"),),
        (Patch(Site("q", m, 0), "all"),),
        (Patch(Site("k", m, 0), "subject"),),
        (Patch(Site("v", m, 0), "all"),),
        (Patch(Site("pattern", m, 1), "last", keys="subject"),),
        (Patch(neuron(0, 3), "subject"),),
        (Patch(head(1, 0), "subject"), Patch(head(m, 2), "all"), Patch(Site("mlp_out", n_layers - 1), "last")),
        (Ablate(Site("resid_pre", m), along),),
        (Add(Site("mlp_out", 1), along, "last", 2.0),),
        ablate_everywhere(along, range(n_layers)),
    ]


def compare(
    model: Model, tokens: TokenPairs, metric: Metric, cells: list[Cell], direction: Direction
) -> tuple[float, float]:
    """The sweep's largest distance from the slow way, in units of the metric, and what its certificate allows.

    NaN counts as NaN. Raises AuditError where the sweep fails its own checks.
    """
    import torch

    from circuits.engine.capture import capture
    from circuits.engine.edits import bind, sites_of
    from circuits.engine.oracle import cell_logits
    from circuits.engine.sweep import sweep

    swept = sweep(model, tokens, metric, cells, direction=direction)
    base, source = (tokens.corrupt, tokens.clean) if direction == "denoise" else (tokens.clean, tokens.corrupt)
    measured, kept = metric.bind(tokens), capture(model, source, tokens.mask, sites_of(cells))
    slow = [cell_logits(model, base, tokens.mask, bind(model, tokens, cell, kept)) for cell in cells]
    whole = model.logits(source, tokens.mask, keep=1)[:, -1]
    wanted = measured(torch.stack([whole, *slow]).float()).cpu()
    gaps = (torch.cat([swept.value[:1], swept.value]) - wanted).abs()
    return gaps.max().item(), swept.certificate.allowed
