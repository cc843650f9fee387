"""Completions equal a loop that runs the whole unpadded sequence again for every token, edits and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracle
import pytest
import small_models
import torch
from oracle import Edit, PairOracle

from circuits.engine import generate, generate_cells
from circuits.errors import SiteError
from circuits.interventions import Ablate, Add, Cell, Clamp, Patch, Rotate, ablate_everywhere
from circuits.sites import Site, head

V = torch.randn(32, generator=torch.Generator().manual_seed(5))
NEW = 7
Edits = Callable[[PairOracle, int], list[Edit]]
"""The edits of a run over so many tokens, prompt and completion."""


def _formula(kind: str, layer: int, positions: range | list[int], f: Any) -> Edit:
    return Edit(kind, layer, oracle.formula(positions, f))


def _none(pair: PairOracle, n: int) -> list[Edit]:
    del pair, n
    return []


def _everywhere(pair: PairOracle, n: int) -> list[Edit]:
    del pair
    remove = oracle.ablated(V)
    written = [_formula(kind, layer, range(n), remove) for layer in range(4) for kind in ("attn_out", "mlp_out")]
    return [_formula("resid_pre", 0, range(n), remove), *written]


CASES: dict[str, tuple[Cell, Edits]] = {
    "nothing": ((), _none),
    "ablated everywhere": (ablate_everywhere(V, range(4)), _everywhere),
    "patches of the prompt alone": (
        (Patch(Site("mlp_out", 1)), Patch(head(3, 3), "last"), Patch(Site("resid_pre", 2), "subject")),
        lambda pair, _: [
            pair.from_source("mlp_out", 1, "all"),
            pair.from_source("z", 3, "last", 3),
            pair.from_source("resid_pre", 2, "subject"),
        ],
    ),
    "a value of one's own, in the prompt alone": (
        (Patch(Site("mlp_out", 1), "all", 3 * V),),
        lambda pair, _: [_formula("mlp_out", 1, range(pair.length), lambda _: 3 * V)],
    ),
    "the last position of the prompt": (
        (Add(Site("resid_post", 3), 4 * V, "last"),),
        lambda pair, _: [_formula("resid_post", 3, [pair.length - 1], lambda a: a + 4 * V)],
    ),
    "all positions beside one": (
        (Ablate(Site("resid_post", 2), V), Add(Site("resid_pre", 1), 50 * V, "subject")),
        lambda pair, n: [
            _formula("resid_post", 2, range(n), oracle.ablated(V)),
            _formula("resid_pre", 1, [pair.subject], lambda a: a + 50 * V),
        ],
    ),
}


def _naive(model: Any, pair: PairOracle, edits: Edits) -> str:
    stop, ids = model.hf.generation_config.eos_token_id, pair.base
    for _ in range(NEW):
        token = int(oracle.run(pair.hf, ids, edits(pair, len(ids)))[0][-1].argmax())
        ids = torch.cat([ids, torch.tensor([token])])
        if token == stop:
            break
    return model.tokenizer.decode(ids[pair.length :], skip_special_tokens=True)


@pytest.mark.parametrize("on", ["clean", "corrupt"])
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("architecture", small_models.ARCHITECTURES)
def test_greedy_completions(architecture: str, name: str, on: str):
    model, tokens = small_models.model(architecture), small_models.uneven()
    cell, edits = CASES[name]
    found = generate(model, tokens, cell, on=on, max_new_tokens=NEW)
    direction = "noise" if on == "clean" else "denoise"
    pairs = [PairOracle(small_models.raw(architecture), tokens, i, direction) for i in range(tokens.n_pairs)]
    assert found == [_naive(model, pair, edits) for pair in pairs]
    if architecture != "gemma3":  # which says one word whatever comes before
        assert len(set(found)) > 1
    # these two repeat their last word through the other edits
    if cell and (architecture not in ("gemma2", "gemma3") or "everywhere" in name):
        assert found != generate(model, tokens, on=on, max_new_tokens=NEW), "the edits change nothing here"


def test_greedy_is_greedy_whatever_the_checkpoint_recommends(monkeypatch: pytest.MonkeyPatch):
    """Chat checkpoints come with sampling, a repetition penalty and the like in generation_config.json."""
    model, tokens = small_models.model("llama"), small_models.uneven()
    expected = generate(model, tokens, max_new_tokens=NEW)
    for name, value in {
        "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 1, "repetition_penalty": 5.0,
        "no_repeat_ngram_size": 1, "num_beams": 3, "min_new_tokens": 2, "max_length": 3,
    }.items():  # fmt: skip
        monkeypatch.setattr(model.hf.generation_config, name, value)
    assert generate(model, tokens, max_new_tokens=NEW) == expected


def test_sampling_repeats_with_its_seed_and_follows_the_model():
    model, tokens = small_models.model("llama"), small_models.uneven()

    def sample(seed: int, temperature: float = 1.0, n: int = NEW) -> list[str]:
        return generate(model, tokens, temperature=temperature, seed=seed, max_new_tokens=n)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1, 1e-3) == generate(model, tokens, max_new_tokens=NEW)
    # first tokens come as often as the model says: all of the vocabulary, no nucleus, no top k
    one = tokens.select([0])
    many = one.select([0] * 4000)
    drawn = generate(model, many, temperature=1.0, max_new_tokens=1)
    p = model.logits(one.clean, one.mask, keep=1)[0, -1].softmax(-1)
    for word, token in model.tokenizer.get_vocab().items():
        if word.startswith("w"):
            spread = (p[token] * (1 - p[token]) / 4000).sqrt().item()
            assert abs(drawn.count(word) / 4000 - p[token].item()) <= 5 * spread + 1e-3


def test_the_prompts_padding_does_not_matter():
    model, tokens = small_models.model("gemma2"), small_models.uneven()
    cell = (*ablate_everywhere(V, range(4)), Patch(head(1, 1), "last"))
    together = generate(model, tokens, cell, max_new_tokens=NEW)
    assert together == [generate(model, tokens.select([i]), cell, max_new_tokens=NEW)[0] for i in range(5)]


W = torch.randn(5, 32, generator=torch.Generator().manual_seed(6))
PLANE = torch.linalg.qr(torch.randn(32, 2, generator=torch.Generator().manual_seed(7))).Q.T.contiguous()
SIDE_BY_SIDE: list[Cell] = [
    *(cell for cell, _ in CASES.values()),
    *(ablate_everywhere(V, range(4), alpha=alpha) for alpha in (0.5, 2)),
    (Add(Site("resid_pre", 1), 30 * W, "all", torch.arange(5.0)),),
    (Rotate(Site("resid_pre", 3), PLANE, 90.0), Clamp(Site("mlp_out", 2), V, 20)),
    # the same two edits of one site in either order are two different cells
    (Add(Site("resid_pre", 2), 40 * V), Ablate(Site("resid_pre", 2), V + W[0])),
    (Ablate(Site("resid_pre", 2), V + W[0]), Add(Site("resid_pre", 2), 40 * V)),
    (Patch(head(2, 1), "all"), Patch(Site("pattern", 3, 2), "last", keys="subject")),
]


@pytest.mark.parametrize(("architecture", "on"), [("gemma2", "corrupt"), *((a, "clean") for a in small_models.ARCHITECTURES)])
def test_cells_side_by_side_are_each_cell_alone(architecture: str, on: str):
    model, tokens = small_models.model(architecture), small_models.uneven()
    alone = [generate(model, tokens, cell, on=on, max_new_tokens=NEW) for cell in SIDE_BY_SIDE]
    for rows in (512, 12):
        assert generate_cells(model, tokens, SIDE_BY_SIDE, on=on, max_new_tokens=NEW, rows=rows) == alone
    if architecture not in ("gemma2", "gemma3"):
        assert len({tuple(said) for said in alone}) > len(SIDE_BY_SIDE) / 2


def test_a_bad_cell_stops_all_before_anything_is_said():
    model, tokens = small_models.model("llama"), small_models.uneven()
    with pytest.raises(SiteError, match="layer"):
        generate_cells(model, tokens, [(), (Ablate(Site("resid_pre", 99), V),)])
