"""What holds of any cells, on any prompts, of any architecture; and what a sweep leaves behind, whatever becomes of it."""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

import oracle
import oracle_modules
import pytest
import small_models
import tiny
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jaxtyping import Float
from oracle import PairOracle
from random_edits import EDITS, RandomEdits
from torch import Tensor

from circuits.engine import sweep
from circuits.interventions import Cell, Columns, Intervention, Patch
from circuits.metrics import BoundMetric, LogitDifference, LogOdds, Metric
from circuits.prompts import PairSet, TokenPairs
from circuits.sites import Site

ANSWER, WRONG = "w60", "w61"
DIRECTIONS = st.sampled_from(["denoise", "noise"])
ARCHITECTURES = st.sampled_from(small_models.ARCHITECTURES)
# examples are small as they are: a failure is shown at once instead of minutes later and a little smaller
examples = settings(deadline=None, derandomize=True, max_examples=25, phases=(Phase.explicit, Phase.generate))


# --- strategies: plain values, from which the tests make prompts and interventions ---------------------------------------


@st.composite
def sentences(draw: Any) -> list[tuple[str, str, str, str]]:
    """One to three pairs of 3 to 8 words, one of which differs, wherever it stands."""

    def pair() -> tuple[str, str, str, str]:
        words = draw(st.lists(st.integers(0, 39), min_size=3, max_size=8))
        at, other = draw(st.integers(0, len(words) - 1)), draw(st.integers(40, 59))
        swapped = [*words[:at], other, *words[at + 1 :]]
        clean, corrupt = (" ".join(f"w{i}" for i in said) for said in (words, swapped))
        return clean, corrupt, ANSWER, WRONG

    return [pair() for _ in range(draw(st.integers(1, 3)))]


def places(lengths: list[int]) -> st.SearchStrategy[Any]:
    """Positions by name, by number and by column of the padded prompts."""
    position, column = st.integers(-min(lengths), min(lengths) - 1), st.integers(0, max(lengths) - 1)
    return st.one_of(
        st.sampled_from(["subject", "post_subject", "last", "all"]),
        position,
        st.lists(position, min_size=1, max_size=3),
        st.lists(column, min_size=1, max_size=3).map(lambda columns: ("columns", *columns)),
    )


class Said(NamedTuple):
    """An intervention before it is made."""

    kind: str
    layer: int
    index: int | None
    edit: str
    where: Any
    keys: Any
    each: bool
    seed: int

    def made(self, architecture: str, tokens: TokenPairs) -> Intervention:
        site = Site(self.kind, self.layer, self.index)  # type: ignore[arg-type]
        where, keys = (Columns(p[1:]) if isinstance(p, tuple) else p for p in (self.where, self.keys))
        random = RandomEdits(architecture, tokens, seed=self.seed)
        if self.kind == "pattern":
            # weights over what a query sees
            seen = tokens.mask[:, None] & torch.ones(tokens.n_pos, tokens.n_pos, dtype=torch.bool).tril()
            own = random.value(site, each=True).abs() * (seen if self.index is not None else seen[:, :, None])
            return Patch(site, where, None if self.edit == "source" else own, keys=keys)
        return Patch(site, where) if self.edit == "source" else random.edit(self.edit, site, where, each=self.each)


@st.composite
def interventions(draw: Any, hf: Any, lengths: list[int]) -> Said:
    kind = draw(st.sampled_from(oracle.kinds(hf)))
    edit = draw(st.sampled_from(("source", "value") if kind == "pattern" else ("source", *EDITS)))
    number = 48 if kind == "post" and edit in ("source", "value") else oracle_modules.heads(hf, kind)
    return Said(
        kind,
        layer=0 if kind == "embed" else draw(st.integers(0, 3)),
        index=draw(st.none() | st.integers(0, number - 1)) if number else None,
        edit=edit,
        where=draw(places(lengths)),
        keys=draw(st.none() | places(lengths)) if kind == "pattern" else None,
        each=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


def cells(hf: Any, lengths: list[int]) -> st.SearchStrategy[list[Said]]:
    return st.lists(interventions(hf, lengths), min_size=1, max_size=3)


def _tokens(said: list[tuple[str, str, str, str]]) -> TokenPairs:
    return PairSet.from_pairs(said).tokenize(tiny.tokenizer())


# --- values -----------------------------------------------------------------------------------------------------------


@examples
@given(data=st.data(), architecture=ARCHITECTURES, pairs=sentences(), direction=DIRECTIONS)
def test_any_two_cells_and_both_in_one_equal_the_oracle(data: Any, architecture: str, pairs: Any, direction: Any):
    model, hf, tokens = small_models.model(architecture), small_models.raw(architecture), _tokens(pairs)
    drawn = [data.draw(cells(hf, tokens.lengths.tolist())) for _ in range(2)]
    first, second = (tuple(said.made(architecture, tokens) for said in cell) for cell in drawn)
    chosen, vocab = [first, second, first + second], model.tokenizer.get_vocab()
    alone = [PairOracle(hf, tokens, i, direction) for i in range(tokens.n_pairs)]
    rows = [[pair.logits(pair.edits(cell)) for pair in alone] for cell in chosen]
    if data.draw(st.booleans()):
        metric: Metric = LogOdds(model, ANSWER)
        expected = torch.tensor([[oracle.log_odds(row, [vocab[ANSWER]]) for row in cell] for cell in rows])
    else:
        metric = LogitDifference(model)
        expected = torch.tensor(
            [[oracle.difference(row, vocab[ANSWER], vocab[WRONG]) for row in cell] for cell in rows]
        )
    value = sweep(model, tokens, metric, chosen, direction=direction).value
    assert (value - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


@examples
@given(data=st.data(), architecture=ARCHITECTURES, pairs=sentences(), direction=DIRECTIONS)
def test_the_order_of_patches_of_different_sites_does_not_matter(
    data: Any, architecture: str, pairs: Any, direction: Any
):
    model, hf, tokens = small_models.model(architecture), small_models.raw(architecture), _tokens(pairs)
    sites = st.tuples(st.sampled_from(oracle.kinds(hf)), st.integers(0, 3))
    drawn = data.draw(st.lists(sites, min_size=2, max_size=3, unique=True))
    where = [data.draw(places(tokens.lengths.tolist())) for _ in drawn]
    said = [
        Said(kind, 0 if kind == "embed" else layer, None, "source", at, None, each=False, seed=0)
        for (kind, layer), at in zip(drawn, where, strict=True)
    ]
    patches = [one.made(architecture, tokens) for one in said]
    orders: list[Cell] = list(permutations(patches))
    value = sweep(model, tokens, LogitDifference(model), orders, direction=direction, audited=False).value
    pairs = [PairOracle(hf, tokens, i, direction) for i in range(tokens.n_pairs)]
    vocab = model.tokenizer.get_vocab()
    rows = [pair.logits(pair.edits(patches)) for pair in pairs]
    expected = torch.tensor([oracle.difference(row, vocab[ANSWER], vocab[WRONG]) for row in rows])
    assert (value - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


# --- what is left behind ----------------------------------------------------------------------------------------------


def _state(hf: Any) -> dict[str, Any]:
    """All that a sweep might leave changed in a model, and in torch."""
    return {
        "hooks": {
            name: [dict(hooks) for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) if hooks]
            for name, m in hf.named_modules()
        },
        "own attributes": {name: sorted(vars(m)) for name, m in hf.named_modules()},
        "training": {name: m.training for name, m in hf.named_modules()},
        "gradients": {name: (p.requires_grad, p.grad is None) for name, p in hf.named_parameters()},
        "weights": {name: (p.data_ptr(), p.sum().item()) for name, p in hf.named_parameters()},
        "attention": {name: m.config._attn_implementation for name, m in hf.named_modules() if hasattr(m, "config")},
        "config": hf.config.to_dict(),
        "grad mode": torch.is_grad_enabled(),
    }


class _BrokenError(Exception):
    pass


class _Broken(Metric, BoundMetric):
    """Fails when it is asked for the n-th time."""

    name = "broken"

    def __init__(self, n: int) -> None:
        self._left = n

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        del pairs
        return self

    def __call__(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        self._left -= 1
        if not self._left:
            raise _BrokenError
        return logits[..., 5]


def _interrupted(n: int, right: Any) -> Any:
    left = [n]

    def forward(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return right(*args, **kwargs)

    return forward


@settings(examples, max_examples=15)
@given(data=st.data(), architecture=ARCHITECTURES, pairs=sentences(), n=st.integers(1, 3))
def test_a_sweep_leaves_the_model_as_it_was(data: Any, architecture: str, pairs: Any, n: int):
    model, hf, tokens = small_models.model(architecture), small_models.raw(architecture), _tokens(pairs)
    drawn = [data.draw(cells(hf, tokens.lengths.tolist())) for _ in range(2)]
    # the first is there to be run, in every block above the second
    chosen: list[Cell] = [(Patch(Site("attn_out", 1)),)]
    chosen += [tuple(said.made(architecture, tokens) for said in cell) for cell in drawn]
    before, metric = _state(model.hf), LogOdds(model, ANSWER)
    assert not any(before["hooks"].values())

    found = sweep(model, tokens, metric, chosen)
    assert _state(model.hf) == before

    with pytest.raises(_BrokenError):
        sweep(model, tokens, _Broken(n), chosen)
    assert _state(model.hf) == before

    # the third time one is called is in the sweep itself: after the runs patched into and patched from
    mlp = oracle_modules.module(model.hf, "mlp_out", data.draw(st.integers(2, 3)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(vars(mlp), "forward", _interrupted(n, mlp.forward))
        with pytest.raises(KeyboardInterrupt):
            sweep(model, tokens, metric, chosen)
    assert _state(model.hf) == before

    again = sweep(model, tokens, metric, chosen)
    assert torch.equal(again.value, found.value)
