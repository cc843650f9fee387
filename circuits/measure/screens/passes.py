"""What the screens of nodes and of edges share: both runs of a batch of pairs, the shares of the way between, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

from jaxtyping import Bool, Float
from torch import Tensor

from circuits.engine.batches import free_memory, in_batches
from circuits.engine.capture import Run, capture
from circuits.engine.edges import Edge
from circuits.engine.gradients import Gradients, differentiable, gradients, require_gradient
from circuits.engine.sweep import Direction
from circuits.errors import SiteError, UndefinedError
from circuits.metrics import BoundMetric, Metric
from circuits.model import Model
from circuits.prompts.align import TokenPairs
from circuits.sites import Site

_ROOM: Final = 2**30
"""Bytes at most for a batch of pairs; a quarter of the free memory where that is less."""
_CPU_TOKENS: Final = 512
"""On a CPU larger batches only leave the cache."""
Value = Float[Tensor, "pair pos ..."]


@final
@dataclass(frozen=True, eq=False)
class Runs:
    """Both runs of some pairs: base is what the gradients are of, source is what replaces."""

    model: Model
    metric: BoundMetric
    base: Run
    source: Run
    real: Bool[Tensor, "pair pos"]
    """True at tokens, not at padding."""
    pairs: tuple[int, ...]
    """Which pairs of all these are."""

    def value(self, run: Run, site: Site) -> Value:
        """A whole site in one of the two runs."""
        if site.kind in ("resid_pre", "resid_post"):
            return run.resid[site.layer + (site.kind == "resid_post")]
        return run.seen[site]

    def difference(self, site: Site) -> Value:
        """Source minus base; 0 at padding."""
        return only(self.real, self.value(self.source, site) - self.value(self.base, site))

    def between(self, site: Site, share: float, where: Bool[Tensor, "pair pos"] | None = None) -> Value:
        """A site some share of the way from base to source; `where` it is not, as in the base run."""
        step = self.difference(site)
        return self.value(self.base, site) + share * (step if where is None else only(where, step))

    def gradients(
        self, sites: Iterable[Site], given: dict[Site, Value] | None = None, dropped: Sequence[int | None] = (None,)
    ) -> Gradients:
        """A pass of the base prompts, with backward passes."""
        return gradients(self.model, self.base.tokens, self.real, self.metric, sites, given=given, dropped=dropped)


def only(where: Bool[Tensor, "pair pos"], value: Value) -> Value:
    """A value at some places, 0 at the others."""
    return value * where.view(*where.shape, *[1] * (value.ndim - 2)).to(value)


def shares(steps: int) -> list[float]:
    """0, 1/m, … (m − 1)/m of the way from base to source: the sum of Hanna et al. with the base run in it."""
    return [k / steps for k in range(steps)]


def require(
    model: Model, tokens: TokenPairs, metric: Metric, method: str, known: Sequence[str], steps: int,
    names: Sequence[str | Edge],
) -> None:  # fmt: skip
    """What can be wrong before the first pass. Raises UndefinedError, or SiteError for names given twice or too few."""
    if method not in known:
        raise UndefinedError(f"unknown method {method!r}; known: {', '.join(known)}")
    if steps < 1:
        raise UndefinedError(f"{steps} steps: at least one point between the two runs is needed, 5 are usual")
    if len(names) < 2:
        raise SiteError(f"{len(names)} to screen: a screen compares at least two")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise SiteError(f"{twice if isinstance(twice, str) else twice.label} is given twice; give every name once")
    require_gradient(model, metric.bind(tokens), tokens.n_pairs, metric.name)


def screened(
    model: Model, tokens: TokenPairs, metric: Metric, direction: Direction, sites: Iterable[Site], n_names: int,
    score: Callable[[Runs], Float[Tensor, "pair cell"]], floats: int = 0,
) -> tuple[Float[Tensor, "pair cell"], Float[Tensor, " pair"], Float[Tensor, " pair"]]:  # fmt: skip
    """Score batches of pairs that fit into memory (`floats` numbers a pair); and the metric of base and source.

    On the CPU, in fp32 (a model in double stays in double). Raises UndefinedError where a score is not finite.
    """
    kept = tuple(sites)
    ids = (tokens.corrupt, tokens.clean) if direction == "denoise" else (tokens.clean, tokens.corrupt)
    found: dict[str, Tensor] = {}

    def run(batch: list[int]) -> None:
        some = tokens.select(batch)
        bound = metric.bind(some)
        base, source = (capture(model, ids[i][batch], some.mask, kept) for i in (0, 1))
        runs = Runs(model, bound, base, source, some.mask.to(model.device), tuple(batch))
        scores = score(runs).detach().cpu()
        if not found:
            found.update(score=scores.new_empty(tokens.n_pairs, n_names), base=scores.new_empty(tokens.n_pairs),
                         source=scores.new_empty(tokens.n_pairs))  # fmt: skip
        found["score"][batch] = scores
        for name, one in (("base", base), ("source", source)):
            found[name][batch] = bound(one.last_logits[None])[0].detach().cpu().to(scores)

    with differentiable(model):
        in_batches(list(range(tokens.n_pairs)), _pairs_at_once(model, tokens, floats), run)
    bad = (~found["score"].isfinite()).nonzero()
    if len(bad):
        raise UndefinedError(f"{model.name}: {len(bad)} scores are not finite, the first on pair {int(bad[0, 0])}")
    return found["score"], found["base"], found["source"]


def _pairs_at_once(model: Model, tokens: TokenPairs, floats: int) -> int:
    shape = model.shape
    per_token = shape.n_layers * (20 * shape.d_model + 6 * shape.d_mlp + 5 * tokens.n_pos * shape.n_heads)
    size = 4 * (tokens.n_pos * (per_token + 3 * shape.d_vocab // tokens.n_pos) + 3 * floats)
    room = min(free_memory(model.device) // 4, _ROOM) // size
    return max(1, min(room, _CPU_TOKENS // tokens.n_pos) if model.device.type == "cpu" else room)


def total(product: Float[Tensor, "pair pos ..."]) -> Float[Tensor, " pair"]:
    """Summed over everything but pairs."""
    return product.flatten(1).sum(1)
