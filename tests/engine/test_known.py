"""What follows without running is not run, equals the run that it follows from to the bit, and the oracle; nothing else is.

The work is counted by hand: a patch that joins at layer j and column p runs columns p … last of blocks j … last, and its own
column of the block below where its site lies within that.
"""

from __future__ import annotations

import random
from typing import Any, Literal

import oracle
import pytest
import small_models
import torch
from oracle import Edit, PairOracle

from circuits.engine import single as singles
from circuits.engine import sweep
from circuits.engine.capture import capture
from circuits.engine.edits import activation_of
from circuits.engine.readout import Readout
from circuits.engine.replay import Replay
from circuits.engine.values import values
from circuits.engine.window import pack
from circuits.interventions import Columns, Patch
from circuits.metrics import RefusalMetric
from circuits.prompts import TokenPairs
from circuits.sites import Site, SiteKind

N_LAYERS = 4
SETS = {"even": small_models.even(), "uneven": small_models.uneven()}


def _two_differences() -> TokenPairs:
    """The even pairs, with another token that differs two columns after the subject."""
    even = small_models.even()
    corrupt = even.corrupt.clone()
    corrupt[:, even.first_difference + 2] = 83
    return TokenPairs(**{**vars(even), "corrupt": corrupt})


def _last_differs() -> TokenPairs:
    """The uneven pairs, of which one differs at its last token alone."""
    uneven = small_models.uneven()
    corrupt, subject = uneven.corrupt.clone(), uneven.subject.clone()
    corrupt[1], subject[1] = uneven.clean[1], uneven.last
    corrupt[1, -1] = 83
    return TokenPairs(**{**vars(uneven), "corrupt": corrupt, "subject": subject})


SETS |= {"two differences": _two_differences(), "last differs": _last_differs()}
KINDS: list[SiteKind] = ["resid_pre", "resid_post", "q", "k", "v", "z", "attn_out", "mlp_out", "pattern"]


def _patches(kind: SiteKind, n_pos: int) -> list[Patch]:
    """One site, or two of its heads, at every column of every layer; of a pattern every key of every row too."""
    heads = {"q": (0, 3), "z": (1, 2), "k": (0,), "v": (0, None), "pattern": (2,)}.get(kind, (None,))
    found = [Patch(Site(kind, layer, h), Columns((p,))) for layer in range(4) for p in range(n_pos) for h in heads]
    if kind == "pattern":
        found += [
            Patch(Site(kind, layer, 1), Columns((p,)), keys=Columns((key,)))
            for layer in (0, 2)
            for p in range(n_pos)
            for key in range(n_pos)
        ]
    return found


# --- by hand ------------------------------------------------------------------------------------------------------------


def _column(patch: Patch) -> int:
    assert isinstance(patch.positions, Columns)
    return patch.positions.columns[0]


def _within(patch: Patch) -> bool:
    return patch.site.kind not in {"resid_pre", "resid_post", "k", "v"}


def _joins(patch: Patch) -> int:
    return patch.site.layer + (patch.site.kind not in {"resid_pre", "k", "v"})


def _outcome(
    patch: Patch, tokens: TokenPairs, pair: int, window: int | None = None
) -> Literal["base", "source", "run"]:
    """What can be said of one pair beforehand; `window`: how many keys a row of this block sees."""
    p, last, kind = _column(patch), tokens.last, patch.site.kind
    different = ((tokens.clean != tokens.corrupt) & tokens.mask)[pair].nonzero()[:, 0].tolist()
    read = p == last or _joins(patch) < N_LAYERS
    if not tokens.mask[pair, p] or p < different[0] or not read:
        return "base"
    entering = different if _joins(patch) == 0 else range(different[0], last + 1)
    if kind in {"resid_pre", "resid_post"}:
        entering = [last] if _joins(patch) == N_LAYERS else list(entering)
        return "source" if entering == [p] else "run" if p in entering else "base"
    if kind in {"q", "k", "v"} and patch.site.layer == 0 and p not in different:
        return "base"
    if isinstance(patch.keys, Columns):
        (key,) = patch.keys.columns
        seen = tokens.mask[pair, key] and key <= p and (window is None or p - key < window)
        return "run" if seen else "base"
    return "run"


def _least(patches: list[Patch], tokens: TokenPairs) -> int:
    """Token-layers: a row is run for all pairs where one of them needs it. The source run comes first."""
    count = N_LAYERS * (tokens.n_pos - tokens.first_difference)
    for patch in patches:
        if any(_outcome(patch, tokens, pair) == "run" for pair in range(tokens.n_pairs)):
            count += _within(patch) + (N_LAYERS - _joins(patch)) * (tokens.n_pos - _column(patch))
    return tokens.n_pairs * count


@pytest.fixture
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last block in one call: its last column is in two otherwise, for keys and values and for all the rest."""

    def whole(self: Replay, layer: int, x: Any, windows: Any, edits: Any) -> Any:
        return self.block(layer, x, windows, edits)[:, :, windows.ends]

    monkeypatch.setattr(Replay, "_last_block", whole)


def _swept(patches: list[Patch], tokens: TokenPairs, architecture: str = "gemma", direction: Any = "denoise") -> Any:
    model = small_models.model(architecture)
    cells = [(patch,) for patch in patches]
    return sweep(model, tokens, RefusalMetric(model, "w60"), cells, direction=direction, audited=False)


# --- nothing is run in vain ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_once")
@pytest.mark.parametrize("of", list(SETS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_runs_the_least(kind: SiteKind, of: str):
    tokens = SETS[of]
    patches = _patches(kind, tokens.n_pos)
    assert _swept(patches, tokens).certificate.token_layers == _least(patches, tokens)


@pytest.mark.usefixtures("_once")
@pytest.mark.parametrize("of", list(SETS))
def test_so_does_any_mixture_of_cells(of: str):
    tokens = SETS[of]
    every = [patch for kind in KINDS for patch in _patches(kind, tokens.n_pos)]
    for seed, n in enumerate((1, 3, 20, 150)):
        drawn = random.Random(seed).sample(every, n)
        assert _swept(drawn, tokens).certificate.token_layers == _least(drawn, tokens)


@pytest.mark.parametrize("kind", ["k", "resid_pre", "pattern"])
def test_in_two_calls_the_last_block_runs_the_last_column_of_each_window_twice(kind: SiteKind):
    tokens = SETS["even"]
    patches = [patch for patch in _patches(kind, tokens.n_pos) if _column(patch) != tokens.last]
    windows = sum(_outcome(patch, tokens, 0) == "run" and _joins(patch) < N_LAYERS for patch in patches)
    assert _swept(patches, tokens).certificate.token_layers == _least(patches, tokens) + tokens.n_pairs * windows


def test_a_value_of_ones_own_is_run_even_where_it_is_what_stands_there():
    model, tokens = small_models.model("gemma"), SETS["even"]
    p, n_pairs = tokens.first_difference + 1, tokens.n_pairs
    patches = [
        *(
            Patch(site, Columns((p,)))
            for site in (Site("k", 0, 0), Site("q", 0, 2), Site("resid_pre", 0), Site("z", 1, 0))
        ),
        Patch(Site("v", 0), Columns((0,))),
        Patch(Site("pattern", 0, 1), Columns((p,)), keys=Columns((p + 1,))),
    ]
    base = capture(model, tokens.corrupt, tokens.mask, {patch.site.whole for patch in patches})
    readout = Readout(model, RefusalMetric(model, "w60").bind(tokens))
    expected = readout(base.resid[-1][None, :, -1])[0]
    for patch in patches:
        same = Patch(patch.site, patch.positions, activation_of(base, patch.site).clone(), patch.keys)
        known, given = Replay(model, base), Replay(model, base)
        assert torch.equal(values(known, tokens, readout, [(patch,)], base)[0], expected)
        assert known.token_layers == 0
        assert torch.allclose(values(given, tokens, readout, [(same,)], base)[0], expected, atol=2e-6, rtol=0)
        columns = tokens.n_pos - _column(patch)
        # the last column is in both calls of the last block
        assert given.token_layers == n_pairs * (_within(patch) + (N_LAYERS - _joins(patch)) * columns + 1)


# --- and the numbers are right ------------------------------------------------------------------------------------------


def _logits(architecture: str, patches: list[Patch], tokens: TokenPairs, pair: int, direction: str) -> torch.Tensor:
    """[cell, vocab] by whole forward passes of the unpadded base prompt."""
    hf = small_models.raw(architecture)
    if int((tokens.clean != tokens.corrupt)[pair].sum()) == 1:
        return PairOracle(hf, tokens, pair, direction).all_logits([(patch,) for patch in patches])
    base, source = (tokens.corrupt, tokens.clean) if direction == "denoise" else (tokens.clean, tokens.corrupt)
    _, seen = oracle.run(hf, source[pair], keep=oracle.keys(hf))

    def edit(patch: Patch) -> Edit:
        kind, layer = patch.site.kind, patch.site.layer
        keys = patch.keys.columns if isinstance(patch.keys, Columns) else None
        return Edit(kind, layer, oracle.patch([_column(patch)], seen[kind, layer], patch.site.index, keys))

    return oracle.runs(hf, base[pair], [[edit(patch)] for patch in patches])[0][:, -1]


@pytest.mark.parametrize("architecture", ["gemma", "gemma2", "gpt2"])
@pytest.mark.parametrize("of", list(SETS))
def test_what_is_known_is_exact_and_what_is_not_equals_the_oracle(of: str, architecture: str):
    tokens = SETS[of]
    direction = "noise" if of == "uneven" else "denoise"
    model, hf = small_models.model(architecture), small_models.raw(architecture)
    token, last = model.tokenizer.get_vocab()["w60"], N_LAYERS - 1
    kinds: list[SiteKind] = ["resid_pre", "resid_post", "q", "k", "v", "pattern"]
    patches = [patch for kind in kinds for patch in _patches(kind, tokens.n_pos) if patch.site.layer in {0, 2, last}]
    patches = [patch for patch in patches if patch.site.kind != "v" or patch.site.index is None]
    swept = _swept(patches, tokens, architecture, direction)
    windows = [
        hf.config.sliding_window if kind == "sliding_attention" else None
        for kind in getattr(hf.config, "layer_types", None) or [None] * N_LAYERS
    ]
    effects: dict[str, list[float]] = {"base": [], "source": [], "run": []}
    for pair in range(tokens.n_pairs):
        logits = _logits(architecture, patches, tokens, pair, direction)
        for patch, found, row in zip(patches, swept.value[:, pair], logits, strict=True):
            outcome = _outcome(patch, tokens, pair, windows[patch.site.layer])
            said = f"{patch.site.label} at {patch.positions}, keys {patch.keys}, pair {pair}: {outcome}"
            if outcome != "run":
                assert found == getattr(swept, outcome)[pair], said
            expected = oracle.against_mean(row, token)
            assert abs(found.item() - expected) <= 1e-5 * max(1.0, abs(expected)), said
            effects[outcome].append(abs(expected - swept.base[pair].item()))
    assert max(effects["base"]) <= 1e-5
    assert min(effects["source"]) > 1e-4
    idle = sum(effect <= 1e-6 for effect in effects["run"])
    assert idle <= len(effects["run"]) / 20, f"{idle} of {len(effects['run'])} that are run change nothing"


# --- which columns are packed together ------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [range(13, 20), range(1, 20), [3, 4, 9, 17], [19], range(20)])
def test_columns_are_packed_together_while_enough_of_the_products_of_query_and_key_are_seen(columns: Any):
    n_pos = 20
    causal = torch.full((n_pos, n_pos), torch.finfo(torch.float32).min).triu(1)[None, None]

    def seen(starts: list[int]) -> float:
        windows = pack(starts, n_pos)
        mask = windows.mask(causal, torch.arange(len(windows)), max(starts))
        return float((mask == 0).float().mean())

    groups = singles._together(list(columns), n_pos)
    assert [p for group in groups for p in group] == list(columns)
    for group, following in zip(groups, [*groups[1:], []], strict=True):
        assert len(group) == 1 or seen(group) >= singles._FULL_ENOUGH
        assert not following or seen([*group, following[0]]) < singles._FULL_ENOUGH
