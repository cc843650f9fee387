"""Every edit at every site, with one value for all pairs and with one for each, equals its formula in a whole pass."""

from __future__ import annotations

from typing import Any

import oracle
import oracle_modules
import pytest
import small_models
import torch
from oracle import PairOracle
from random_edits import EDITS, RandomEdits

from circuits.engine import sweep
from circuits.errors import SiteError
from circuits.interventions import Add, Cell, Columns, Patch
from circuits.metrics import RefusalMetric
from circuits.sites import Site

TOKENS = small_models.uneven()
PLACES: tuple[Any, ...] = ("all", "subject", "last", "post_subject", -2, Columns((7, 9)))


def _at(kind: str, layer: int, index: int | None) -> Site:
    return Site("embed") if kind == "embed" else Site(kind, layer, index)  # type: ignore[arg-type]


def _cells(architecture: str) -> list[Cell]:
    random, hf = RandomEdits(architecture, TOKENS, seed=11), small_models.raw(architecture)
    kinds = [kind for kind in oracle.kinds(hf) if kind != "pattern"]
    cells: list[Cell] = []
    for k, kind in enumerate(kinds):
        for e, name in enumerate(EDITS):
            for each in (False, True):
                where = PLACES[(k + e + 3 * each) % len(PLACES)]
                layer = (k + 2 * e + each) % 4
                # what is not at the last position of the last block's own activations still counts there
                if layer == 3 and kind not in ("k", "v"):
                    where = ("all", "last")[e % 2]
                heads = oracle_modules.heads(hf, kind)
                index = (k + e) % heads if heads and (e + each) % 2 else None
                cells.append((random.edit(name, _at(kind, layer, index), where, each=each),))
    for layer in (1, 3):  # a neuron is one number
        cells.append((Patch(Site("post", layer, 4), "last", torch.tensor(2.0)),))
        cells.append((Patch(Site("post", layer, 9), "all", random.numbers(TOKENS.n_pairs, TOKENS.n_pos, 1)),))
        cells.append((Patch(Site("post", layer, 9), "last", random.numbers(TOKENS.n_pairs, 1, 1)),))
    return cells + _mixtures(random)


def _mixtures(random: RandomEdits) -> list[Cell]:
    """Edits together: in the order of the forward pass, and at one site in the order given."""
    z = Site("z", 2)
    reversed_: list[tuple[Any, str]] = [
        ("mlp_out", "clamp"), ("post", "add"), ("result", "rotate"), ("v", "add"), ("q", "value")
    ]  # fmt: skip
    return [
        (
            random.edit("add", z, "all", each=True),
            random.edit("ablate", Site("z", 2, 1), "all", each=False),
            random.edit("rotate", z, "last", each=True),
        ),
        # said from the last to the first
        tuple(random.edit(name, Site(kind, 1), "all", each=name == "add") for kind, name in reversed_),
        (random.edit("clamp", Site("k", 3, 0), "all", each=True), Patch(Site("pattern", 3, 1), "last", keys="subject")),
        (random.edit("add", Site("resid_post", 0), "subject", each=True), Patch(Site("resid_pre", 1), "last")),
        (Patch(Site("k", 2), "all"), random.edit("rotate", Site("k", 2), "all", each=False)),
    ]


def _rows() -> list[Cell]:
    """Attention rows of one's own over what a query sees: uniform, random, and without some keys."""
    seen = TOKENS.mask[:, None] & torch.ones(TOKENS.n_pos, TOKENS.n_pos, dtype=torch.bool).tril()
    uniform = seen / seen.sum(-1, keepdim=True).clamp(min=1)
    free = torch.rand(seen.shape, generator=torch.Generator().manual_seed(12)) * seen
    cells: list[Cell] = []
    for layer in (0, 2, 3):
        cells += [
            (Patch(Site("pattern", layer, 1), "last", uniform),),
            (Patch(Site("pattern", layer), "all", uniform[:, :, None]),),
            (Patch(Site("pattern", layer, 3), "all", free),),
            (Patch(Site("pattern", layer, 2), "last", torch.tensor(0.0), keys="subject"),),
            (Patch(Site("pattern", layer), "all", torch.tensor(0.0), keys=-2),),
        ]
    return [
        *cells,
        (Patch(Site("pattern", 1, 0), "subject", free),),
        (Patch(Site("pattern", 1), -2, free[:, :, None]),),
    ]


def _free() -> torch.Tensor:
    """Weight of every query on every column, [pair, query, key]."""
    return torch.rand(TOKENS.n_pairs, TOKENS.n_pos, TOKENS.n_pos, generator=torch.Generator().manual_seed(12))


def _compare(architecture: str, cells: list[Cell], direction: Any) -> None:
    model, token = small_models.model(architecture), small_models.model(architecture).tokenizer.get_vocab()["w60"]
    swept = sweep(model, TOKENS, RefusalMetric(model, "w60"), cells, direction=direction, audited=False)
    pairs = [PairOracle(small_models.raw(architecture), TOKENS, i, direction) for i in range(TOKENS.n_pairs)]
    columns = [[oracle.against_mean(row, token) for row in pair.all_logits(cells)] for pair in pairs]
    expected = torch.tensor(columns).T
    gap = (swept.value - expected).abs().amax(1)
    wrong = [
        f"{' + '.join(f'{type(i).__name__} {i.site.label} at {i.positions}' for i in cell)}: off by {off:.1e}"
        for cell, off in zip(cells, gap.tolist(), strict=True)
        if off > 1e-5 * max(1.0, expected.abs().max().item())
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cells)} cells", *wrong[:20]])
    effect = (expected - swept.base).abs().amax(1)
    idle = [" + ".join(i.site.label for i in cell) for cell, e in zip(cells, effect.tolist(), strict=True) if e <= 1e-4]
    assert len(idle) <= len(cells) / 20, idle


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_every_edit_at_every_site_equals_its_formula(architecture: str):
    odd = small_models.ARCHITECTURES.index(architecture) % 2
    _compare(architecture, _cells(architecture), "noise" if odd else "denoise")


def test_what_leaves_a_block_is_edited_before_what_enters_the_next():
    # both are one tensor, and said here in the other order
    random = RandomEdits("gemma2", TOKENS, seed=14)
    enters = [random.edit(name, Site("resid_pre", 2), "all", each=True) for name in ("value", "rotate", "clamp")]
    leaves = random.edit("add", Site("resid_post", 1), "all", each=True)
    _compare("gemma2", [(edit, leaves) for edit in enters[1:]], "denoise")
    # a value there leaves nothing of what was done before
    model = small_models.model("gemma2")
    both = sweep(model, TOKENS, RefusalMetric(model, "w60"), [(enters[0], leaves), (enters[0],)], audited=False)
    assert (both.value[0] - both.value[1]).abs().max() <= 1e-6


@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_attention_rows_of_ones_own_mix_the_values_as_they_are(architecture: str):
    _compare(architecture, _rows(), "denoise")


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_weight_given_to_padding_is_given_to_nothing(architecture: str):
    seen = torch.ones(TOKENS.n_pos, TOKENS.n_pos).tril()
    cells: list[Cell] = [
        (Patch(Site("pattern", 1, 0), "last", _free()),),
        (Patch(Site("pattern", 3, 1), "last", torch.tensor(0.2)),),
        (Patch(Site("pattern", 0), "all", (_free() * seen)[:, :, None]),),
    ]
    _compare(architecture, cells, "noise")


@pytest.mark.parametrize("architecture", ["gemma2", "gpt2"])
def test_weight_given_to_later_keys_is_given_to_nothing(architecture: str):
    model, metric = small_models.model(architecture), RefusalMetric(small_models.model(architecture), "w60")
    free = _free() * TOKENS.mask[:, None]
    causal = torch.where(torch.ones(TOKENS.n_pos, TOKENS.n_pos).tril().bool(), free, 0.0)

    def cells(value: torch.Tensor) -> list[Cell]:
        return [(Patch(Site("pattern", 2, 3), "all", value),), (Patch(Site("pattern", 1), "post_subject", value[:, :, None]),)]

    assert torch.equal(*(sweep(model, TOKENS, metric, cells(value)).value for value in (free, causal)))
    _compare(architecture, cells(causal), "noise")
    nothing = sweep(model, TOKENS, metric, [(Patch(Site("pattern", 1, 0), "subject", free, keys="last"),)])
    reads_itself = TOKENS.subject == TOKENS.last
    assert (nothing.value[0] - nothing.base)[~reads_itself].abs().max() <= 1e-6


def test_one_value_for_each_pair_is_what_each_pair_alone_is_given():
    model, metric = small_models.model("gemma2"), RefusalMetric(small_models.model("gemma2"), "w60")
    vectors, scales = torch.randn(2, TOKENS.n_pairs, 32, generator=torch.Generator().manual_seed(13)).unbind(0)
    scale = scales[:, 0]
    together = sweep(model, TOKENS, metric, [(Add(Site("resid_mid", 2), vectors, "all", scale),)])
    for i in range(TOKENS.n_pairs):
        cell = (Add(Site("resid_mid", 2), vectors[i], "all", float(scale[i])),)
        alone = sweep(model, TOKENS.select([i]), metric, [cell])
        assert alone.value.item() == pytest.approx(together.value[0, i].item(), abs=5e-6)
        assert abs(alone.value.item() - alone.base.item()) > 1e-3


@pytest.mark.parametrize("name", EDITS[1:])
@pytest.mark.parametrize("site", [Site("pattern", 1), Site("pattern", 1, 2), Site("post", 1, 5)], ids=lambda s: s.label)
def test_there_are_no_directions_along_keys_nor_in_one_neuron(site: Site, name: str):
    model, random = small_models.model("gemma2"), RandomEdits("gemma2", TOKENS, seed=11)
    with pytest.raises(SiteError, match=f"L1.({site.label[3:7]}|N5)"):
        sweep(model, TOKENS, RefusalMetric(model, "w60"), [(random.edit(name, site, "all", each=False),)])
