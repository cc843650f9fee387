"""What holds of any cells, on any prompts, of any architecture; and what a sweep leaves behind, whatever becomes of it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import oracle
import pytest
import small_models
import tiny
import torch
from hypothesis import given, settings
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
examples = settings(deadline=None, derandomize=True, max_examples=25)


# --- strategies -------------------------------------------------------------------------------------------------------


@st.composite
def prompts(draw: Any) -> TokenPairs:
    """One to three pairs of 3 to 8 words, one of which differs, wherever it stands."""

    def pair() -> tuple[str, str, str, str]:
        words = draw(st.lists(st.integers(0, 39), min_size=3, max_size=8))
        at, other = draw(st.integers(0, len(words) - 1)), draw(st.integers(40, 59))
        swapped = [*words[:at], other, *words[at + 1 :]]
        clean, corrupt = (" ".join(f"w{i}" for i in said) for said in (words, swapped))
        return clean, corrupt, ANSWER, WRONG

    return PairSet.from_pairs([pair() for _ in range(draw(st.integers(1, 3)))]).tokenize(tiny.tokenizer())


def places(tokens: TokenPairs) -> st.SearchStrategy[Any]:
    shortest = int(tokens.lengths.min())
    position = st.integers(-shortest, shortest - 1)
    column = st.integers(0, tokens.n_pos - 1)
    return st.one_of(
        st.sampled_from(["subject", "post_subject", "last", "all"]),
        position,
        st.lists(position, min_size=1, max_size=3),
        st.lists(column, min_size=1, max_size=3).map(lambda c: Columns(tuple(c))),
    )


@st.composite
def interventions(draw: Any, architecture: str, tokens: TokenPairs) -> Intervention:
    random = RandomEdits(architecture, tokens, seed=draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(oracle.kinds(small_models.raw(architecture))))
    name = draw(st.sampled_from(("source", "value") if kind == "pattern" else ("source", *EDITS)))
    layer, heads = 0 if kind == "embed" else draw(st.integers(0, 3)), random.heads(kind)
    index = draw(st.none() | st.integers(0, heads - 1)) if heads else None
    if kind == "post" and name in ("source", "value"):
        index = draw(st.none() | st.integers(0, 47))
    site, where = Site(kind, layer, index), draw(places(tokens))
    if kind == "pattern":
        value = random.value(site, each=True) if name == "value" else None
        return Patch(site, where, value, keys=draw(st.none() | places(tokens)))
    return Patch(site, where) if name == "source" else random.edit(name, site, where, each=draw(st.booleans()))


@st.composite
def cells(draw: Any, architecture: str, tokens: TokenPairs) -> Cell:
    return tuple(draw(st.lists(interventions(architecture, tokens), min_size=1, max_size=3)))


# --- values -----------------------------------------------------------------------------------------------------------


@examples
@given(data=st.data(), architecture=ARCHITECTURES, tokens=prompts(), direction=DIRECTIONS)
def test_any_two_cells_and_both_in_one_equal_the_oracle(
    data: Any, architecture: str, tokens: TokenPairs, direction: Any
):
    model, first = small_models.model(architecture), data.draw(cells(architecture, tokens))
    second = data.draw(cells(architecture, tokens))
    chosen, vocab = [first, second, first + second], model.tokenizer.get_vocab()
    pairs = [PairOracle(small_models.raw(architecture), tokens, i, direction) for i in range(tokens.n_pairs)]
    logits = [[pair.logits(pair.edits(cell)) for pair in pairs] for cell in chosen]
    for metric, formula in (
        (LogitDifference(model), lambda row: oracle.difference(row, vocab[ANSWER], vocab[WRONG])),
        (LogOdds(model, ANSWER), lambda row: oracle.log_odds(row, [vocab[ANSWER]])),
    ):
        expected = torch.tensor([[formula(row) for row in rows] for rows in logits])
        swept = sweep(model, tokens, metric, chosen, direction=direction)
        assert (swept.value - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


@examples
@given(data=st.data(), architecture=ARCHITECTURES, tokens=prompts(), direction=DIRECTIONS)
def test_the_order_of_patches_of_different_sites_does_not_matter(
    data: Any, architecture: str, tokens: TokenPairs, direction: Any
):
    model, kinds = small_models.model(architecture), oracle.kinds(small_models.raw(architecture))
    sites = st.builds(
        lambda kind, layer: Site(kind, 0 if kind == "embed" else layer), st.sampled_from(kinds), st.integers(0, 3)
    )
    chosen = data.draw(st.lists(sites, min_size=2, max_size=3, unique=True))
    patches = [Patch(site, data.draw(places(tokens))) for site in chosen]
    orders: list[Cell] = list(permutations(patches))
    value = sweep(model, tokens, LogitDifference(model), orders, direction=direction).value
    pairs = [PairOracle(small_models.raw(architecture), tokens, i, direction) for i in range(tokens.n_pairs)]
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
@given(data=st.data(), architecture=ARCHITECTURES, tokens=prompts(), n=st.integers(1, 3))
def test_a_sweep_leaves_the_model_as_it_was(data: Any, architecture: str, tokens: TokenPairs, n: int):
    model = small_models.model(architecture)
    # the first is there to be run, in every block from the second
    chosen = [
        (Patch(Site("attn_out", 1)),),
        data.draw(cells(architecture, tokens)),
        data.draw(cells(architecture, tokens)),
    ]
    before, metric = _state(model.hf), LogOdds(model, ANSWER)
    assert not any(before["hooks"].values())

    found = sweep(model, tokens, metric, chosen)
    assert _state(model.hf) == before

    with pytest.raises(_BrokenError):
        sweep(model, tokens, _Broken(n), chosen)
    assert _state(model.hf) == before

    # the third time one is called is in the sweep itself: after the runs patched into and patched from
    mlp = model.parts.blocks[data.draw(st.integers(2, 3))].mlp
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(vars(mlp), "forward", _interrupted(n, mlp.forward))
        with pytest.raises(KeyboardInterrupt):
            sweep(model, tokens, metric, chosen)
    assert _state(model.hf) == before

    again = sweep(model, tokens, metric, chosen)
    assert torch.equal(again.value, found.value)
