"""Which features carry the behaviour? Each is patched exactly, the reconstruction error left where it is.

    patched = base + decode(mixed) − decode(base's)        mixed: some features from the source run, all others the base's

So nothing changes but the features named, and patching none is the base run. Decoding is affine, so the changes of single
features add up to that of all of them; their effects on the metric need not (`FeaturePatching.parts_frame`). All features
and the error together are the site: this is measured, not assumed.

An autoencoder that normalises decodes in each activation's own scale. Here the base run's scale is kept while features are
patched; what the source's scale adds is a part of its own ("scale"), without which features and error are not the site.

It misleads: a feature that is redundant looks unnecessary; and what the error recovers is carried by no feature.
Source: Marks et al., arXiv:2403.19647 (features as nodes, the error kept as one).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.engine import sweep
from circuits.engine.sweep import Direction
from circuits.errors import AuditError, SiteError, UndefinedError
from circuits.interventions import Cell, Patch
from circuits.measure.features.patched import FeaturePatching
from circuits.metrics import Metric
from circuits.model import Model
from circuits.prompts.token_pairs import TokenPairs
from circuits.sae import Sae, site_acts
from circuits.sae.acts import Where
from circuits.tables import provenance

_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Of |everything − site|, as a share of the metric's own size; 5 % in reduced precision, as for every sweep."""


def patch_features(
    model: Model, tokens: TokenPairs, metric: Metric, sae: Sae, *, direction: Direction = "denoise",
    features: Sequence[int] | None = None, positions: str = "last",
) -> FeaturePatching:  # fmt: skip
    """Patch single features of the site at `positions`, then larger parts of it. Units of the metric, fp32.

    Without `features`, all that differ between the two runs of some pair. Costs two forward passes and one sweep, of a cell
    per feature; with "all" positions each holds [pair, pos, d_model] numbers. Raises SiteError for a feature that
    does not exist, TokenError for a metric that does not fit the pairs, before anything is run; UndefinedError where no
    feature differs; AuditError where all parts together are not the site.
    """
    if positions not in ("last", "all"):
        raise SiteError(f"features are patched at the last position or at all, not at {positions!r}")
    if features is not None:
        if not features:
            raise SiteError("no features to patch; name some, or leave `features` out for all that differ")
        sae.require(list(features))
    metric.bind(tokens)
    site = Patch(sae.site, positions)
    mixer = _Mixer(model, tokens, sae, direction, positions)
    differing = mixer.changed.any(0).nonzero()[:, 0].tolist()
    chosen = tuple(differing if features is None else dict.fromkeys(int(i) for i in features))
    if not chosen:
        raise UndefinedError(
            f"{sae.name}: no feature differs between clean and corrupt at {positions}; nothing to patch"
        )
    run = [i for i in chosen if mixer.changed[:, i].any()]
    parts = mixer.parts()
    cells: list[Cell] = [(Patch(sae.site, positions, value=mixer.single(i)),) for i in run]
    cells += [(Patch(sae.site, positions, value=value),) for value in parts.values()]
    swept = sweep(model, tokens, metric, [*cells, (site,)], direction=direction)
    value = swept.base[:, None].repeat(1, len(chosen))
    for row, feature in enumerate(run):
        mine = mixer.changed[:, feature]
        value[mine, chosen.index(feature)] = swept.value[row, mine]
    whole = dict(zip([*parts, "site"], swept.value[len(run) :], strict=True))
    identity = float((whole["everything"] - whole["site"]).abs().max())
    allowed = _TOLERANCE.get(model.dtype, 5e-2) * max(1.0, float(swept.base.abs().max()))
    if not identity <= allowed:
        raise AuditError(
            f"{model.name}: all features and the error of {sae.name} together are not {sae.site.label}, by {identity:.1e} "
            f"(at most {allowed:.1e}); do not use these numbers"
        )
    said = f"{swept.certificate.line}; all features + error = site to {identity:.0e}"
    return FeaturePatching(
        provenance=provenance(model, tokens, metric, said), value=value, features=chosen,
        difference=mixer.difference[:, list(chosen)], parts=whole, base=swept.base, source=swept.source,
        complete=set(differing) <= set(chosen), identity=identity, positions=positions, direction=direction,
        sae=sae.title, site=sae.site.label, site_kind=sae.site.kind, layer=sae.site.layer,
    )  # fmt: skip


@final
class _Mixer:
    """Activations of the site with parts of them taken from the source run; of [pair, pos, …], or one column of it."""

    def __init__(self, model: Model, tokens: TokenPairs, sae: Sae, direction: Direction, positions: Where) -> None:
        base, source = ("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt")
        self._sae = sae
        self._base = site_acts(model, tokens, sae, on=base, positions=positions)
        self._source = site_acts(model, tokens, sae, on=source, positions=positions)
        real = tokens.mask[:, -1:] if positions == "last" else tokens.mask
        gap = self._source.features - self._base.features
        self._gap = torch.where(real[..., None], gap, torch.zeros_like(gap))
        self.difference: Float[Tensor, "pair feature"] = self._gap.sum(1)
        self.changed = (self._gap != 0).any(1)
        self._scale = sae.scale(self._base.act)
        self._decoded = sae.decode(self._base.features, like=self._base.act)

    def single(self, feature: int) -> Float[Tensor, "pair pos ..."]:
        """The base activation with one feature from the source: decoding is affine, so along its direction alone."""
        act = self._base.act
        moved = self._gap[..., feature, None] * self._scale * self._sae.direction(feature)
        return act + moved.reshape(act.shape)

    def parts(self) -> dict[str, Float[Tensor, "pair pos ..."]]:
        """The base activation with all features, with the error, with the scale, and with all of these."""
        taken = self._sae.decode(self._source.features, like=self._base.act)
        moved = {"all features": taken - self._decoded, "error": self._source.error - self._base.error}
        if self._sae.normalised:
            moved["scale"] = self._sae.decode(self._source.features, like=self._source.act) - taken
        everything = torch.stack(list(moved.values())).sum(0)
        return {name: self._base.act + by for name, by in (moved | {"everything": everything}).items()}
