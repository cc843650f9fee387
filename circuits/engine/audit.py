"""Checks of a finished sweep, most of them against one whole forward pass that shares nothing with the fast way.

1. readout: the metric from the final residual is that of the Hugging Face forward's own logits;
2. self-patch: on the audited pairs, a cell patched from the base run itself changes nothing;
3. patch-all: the source run, which the sweep makes by patching every differing embedding into the base run, gives the
   metric of the Hugging Face forward of a source prompt;
4. before: in that forward pass, columns before the first difference are what they are in the base run;
5. additivity: in it, resid_pre + attn_out + mlp_out = resid_post in every block;
6. oracle: a random sample of cells, each on one random pair, recomputed the slow way, agrees;
7. from_fp32: in reduced precision, the sample is not much further from the same weights in fp32 than the slow way is.

Hooks that fire are counted where they are installed: one that stays silent is an error there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine.capture import Run, capture
from circuits.engine.certificate import Certificate
from circuits.engine.edits import Bound, activation_of, bind, sites_of
from circuits.engine.oracle import cell_logits
from circuits.engine.precision import REDUCED, Rounding, fits_in_fp32, in_fp32, rounding
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.sample import Sample
from circuits.errors import AuditError
from circuits.interventions import Cell, Columns, Patch
from circuits.metrics import Metric
from circuits.model.hooks import Edit
from circuits.prompts.align import TokenPairs
from circuits.sites import Site, SiteKind

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Largest deviation allowed, as a share of the metric's own size.

Double precision gains little: Hugging Face computes softmax and norms in single precision all the same. Reduced
precision is allowed 5 %, of the metric only where memory does not allow its rounding to be measured."""
_RESIDUAL = ("before", "additivity")
"""Checks in units of the residual stream."""
_BASES = 8
"""Base prompts at most whose distance from fp32 is measured besides that of the audited cells."""

Values = Callable[[Replay, TokenPairs, Readout, list[Cell], Run], Float[Tensor, "cell pair"]]


def audit(
    replay: Replay, source: Run, tokens: TokenPairs, readout: Readout, metric: Metric, sample: Sample, values: Values,
    unchecked: Certificate,
) -> Certificate:  # fmt: skip
    """Check a finished sweep on a sample of its cells, whose sites both runs keep.

    Raises AuditError naming the check that failed and by how much.
    """
    model, base, on = replay.model, replay.base, sample.on
    base_value, source_value = (readout(run.resid[-1][None, :, -1])[0] for run in (base, source))
    forward = readout.of_logits(base.last_logits[None])[0]
    slow = _Slow(replay, tokens, metric, sample)
    measured = model.dtype in REDUCED and fits_in_fp32(model)
    # what is held against fp32 shares nothing with the sweep, not even the run patched from, which patch-all checks
    patched, rows = (slow.sources(source), list(range(len(on)))) if measured else (source, on)
    watched: dict[Site, Tensor] = {}
    found_slowly = slow.run(patched, rows, source, on[:1], watched)
    cells, whole = found_slowly[:-1], found_slowly[-1]

    share = _TOLERANCE.get(model.dtype, 5e-2)
    tolerance = allowed = share * max(1.0, base_value.abs().max().item())
    far = Rounding(math.nan, math.nan, math.nan)
    if measured:
        largest = torch.cat([base_value, source_value]).abs().max().item()
        far = slow.rounding(source, patched, forward, cells, largest)
        tolerance, allowed = 2 * far.allowed, far.allowed  # of two that are each so far from fp32 at most
    found = {
        "from_fp32": far.cells,
        "readout": _gap(forward, base_value),
        "self_patch": _self_patch(replay, tokens, metric, sample, values, base_value),
        "patch_all": _gap(whole, source_value[on[0]]),
        "before": _before(replay, tokens, watched, on[0]),
        "additivity": _additivity(replay, tokens, watched, on[0]),
        "oracle": _gap(cells, sample.value),
    }
    limits = dict.fromkeys(found, tolerance) | dict.fromkeys(_RESIDUAL, share) | {"from_fp32": allowed}
    for check, deviation in found.items():
        if deviation > limits[check] or math.isinf(deviation):
            raise AuditError(
                f"{model.name}: the sweep failed its {check.replace('_', '-')} check by {deviation:.1e} "
                f"(at most {limits[check]:.1e}); do not use these numbers"
            )
    return replace(
        unchecked, sampled=len(on), looped_token_layers=unchecked.cells * base.tokens.numel() * replay.n_layers,
        dtype=str(model.dtype).removeprefix("torch."), slow_from_fp32=far.slow, allowed=allowed,
        gap=(source_value - base_value).abs().mean().item(), **found,
    )  # fmt: skip


@final
class _Slow:
    """The audited cells, each on its pair, by whole forward passes in the dtype that the model has at the time."""

    def __init__(self, replay: Replay, tokens: TokenPairs, metric: Metric, sample: Sample) -> None:
        self._replay, self._tokens, self._metric, self._sample = replay, tokens, metric, sample

    def sources(self, source: Run) -> Run:
        """The source prompt of every audited cell, run whole."""
        on, sites = self._sample.on, sites_of(self._sample.cells)
        return capture(self._replay.model, source.tokens[on], source.mask[on], sites)

    def run(
        self, patched: Run, rows: list[int], more: Run, pairs: list[int], watched: dict[Site, Tensor] | None = None
    ) -> Float[Tensor, " row"]:
        """The metric of every cell, and of the prompts that `more` has for `pairs`: one whole forward pass of them all.

        Row i has the base prompt of pair `on[i]` and the edits of cell i, with row `rows[i]` of `patched` for its source.
        What the last row has at the sites of `_WATCHED` is left in `watched`.
        """
        base, on = self._replay.base, self._sample.on
        n_rows = len(on) + len(pairs)
        bound = tuple(
            _at_row(b, i, pair, patched_row, n_rows)
            for i, (cell, pair, patched_row) in enumerate(zip(self._sample.cells, on, rows, strict=True))
            for b in bind(self._replay.model, self._tokens, cell, patched)
        )

        def keep(site: Site) -> Edit:
            def read(activation: Tensor) -> None:
                if watched is not None:
                    watched[site] = activation[-1].clone()

            return read

        layers = range(self._replay.n_layers if watched is not None else 0)
        reads = {site: keep(site) for site in (Site(kind, layer) for layer in layers for kind in _WATCHED)}
        ids = torch.cat([base.tokens[on], more.tokens[pairs]])
        logits = cell_logits(self._replay.model, ids, base.mask[[*on, *pairs]], bound, reads)
        return self._measured(logits, [*on, *pairs])

    def rounding(
        self, source: Run, patched: Run, forward: Float[Tensor, " pair"], cells: Float[Tensor, " cell"], largest: float
    ) -> Rounding:
        """The sweep's cells against the same weights in fp32, source activations included, judged by the slow way.

        That is `cells`, the source prompts in `patched`, and base prompts, whose metric is `forward`.
        """
        base, on = self._replay.base, self._sample.on
        bases = list(dict.fromkeys([*on, *range(len(base.tokens))]))[:_BASES]
        dtype = self._replay.model.dtype
        with in_fp32(self._replay.model):
            wide = self.sources(source)
            exact, exact_base = self.run(wide, list(range(len(on))), base, bases).split([len(on), len(bases)])
        run_from = self._measured(patched.last_logits, on) - self._measured(wide.last_logits, on)
        slow = torch.cat([cells - exact, run_from, forward[bases] - exact_base])
        return rounding(dtype, self._sample.value - exact, slow, largest)

    def _measured(self, logits: Float[Tensor, "row d_vocab"], pairs: list[int]) -> Float[Tensor, " row"]:
        return self._metric.bind(self._tokens.select(pairs))(logits[None])[0]


def _at_row(b: Bound, row: int, pair: int, patched_row: int, n_rows: int) -> Bound:
    """A bound edit on one pair alone, which stands in row `row`, and in another of the run patched from."""
    at = replace(b, value=None).at_row(row, pair, n_rows)
    if b.value is None:
        return at
    given = isinstance(b.intervention, Patch) and b.intervention.value is not None
    value = b.value[pair if given else patched_row]
    return replace(at, value=value.expand(n_rows, *value.shape))


def _of_pairs(run: Run, pairs: list[int]) -> Run:
    """What a run keeps of some pairs, in this order."""
    rows = torch.tensor(pairs, device=run.tokens.device)

    def of(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(of(item) for item in value)  # type: ignore[reportUnknownVariableType]
        return value[rows] if isinstance(value, Tensor) and value.ndim > 1 and len(value) > 1 else value

    return Run(
        tokens=run.tokens[rows], mask=run.mask[rows], resid=tuple(r[rows] for r in run.resid),
        calls=tuple({name: of(value) for name, value in call.items()} for call in run.calls),
        kv=tuple((k[rows], v[rows]) for k, v in run.kv), seen={site: t[rows] for site, t in run.seen.items()},
        last_logits=run.last_logits[rows],
    )  # fmt: skip


def _self_patch(
    replay: Replay, tokens: TokenPairs, metric: Metric, sample: Sample, values: Values,
    base_value: Float[Tensor, " pair"],
) -> float:  # fmt: skip
    """The first of the cells that patches, given the base run's own activations; NaN where none does.

    On columns before the first difference the sweep does not run a patch; nor does this.
    """
    of_cells = ([i for i in cell if isinstance(i, Patch) and i.value is None] for cell in sample.cells)
    patches = next(filter(None, of_cells), None)
    if patches is None:
        return math.nan
    pairs = sorted(set(sample.on))
    base, some = _of_pairs(replay.base, pairs), tokens.select(pairs)
    run = Columns(tuple(range(some.first_difference, some.n_pos)))
    own = tuple(
        replace(i, value=activation_of(base, i.site), positions=run if i.positions == "all" else i.positions)
        for i in patches
    )
    again = Replay(replay.model, base, max_memory=replay.max_memory)
    found = values(again, some, Readout(replay.model, metric.bind(some)), [own], base)
    return _gap(found[0], base_value[pairs])


_WATCHED: tuple[SiteKind, ...] = ("resid_pre", "attn_out", "mlp_out", "resid_post")


def _before(replay: Replay, tokens: TokenPairs, watched: dict[Site, Tensor], pair: int) -> float:
    """How far the source prompt is from the base run where they have not differed yet; NaN where nothing is before."""
    columns = slice(tokens.n_pos - int(tokens.lengths[pair]), int(tokens.subject[pair]))
    if columns.start == columns.stop:
        return math.nan
    found = torch.stack([watched[Site("resid_post", layer)][columns] for layer in range(replay.n_layers)])
    base = torch.stack([resid[pair, columns] for resid in replay.base.resid[1:]])
    return _gap(found, base) / base[-1].abs().max().item()


def _additivity(replay: Replay, tokens: TokenPairs, watched: dict[Site, Tensor], pair: int) -> float:
    """How far the parts are from their sum, against the sum's largest entry, in the worst block."""
    real = slice(tokens.n_pos - int(tokens.lengths[pair]), None)
    pre, attn, mlp, post = (
        torch.stack([watched[Site(kind, layer)][real] for layer in range(replay.n_layers)]) for kind in _WATCHED
    )
    worst = ((pre + attn + mlp - post).abs().amax((1, 2)) / post.abs().amax((1, 2))).max().item()
    return math.inf if math.isnan(worst) else worst


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; not-a-number anywhere counts as failed, not as missing."""
    gap = (a - b).abs().max().item()
    return math.inf if math.isnan(gap) else gap
