"""A site has one spelling, read back; what is none is told what there is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.errors import SiteError
from circuits.sites import HEADED, HOOK_NAMES, Site, head, neuron, parse

KINDS = st.sampled_from(sorted(HOOK_NAMES))


@given(kind=KINDS, layer=st.integers(0, 99))
def test_labels_are_read_back(kind: Any, layer: int):
    site = Site(kind, 0 if kind == "embed" else layer)
    assert parse(site.label) == site
    assert site.whole == site


@given(layer=st.integers(0, 99), index=st.integers(0, 99))
def test_so_are_heads(layer: int, index: int):
    assert parse(head(layer, index).label) == head(layer, index)
    assert head(layer, index).whole == Site("z", layer)
    assert head(layer, index).hook_name == Site("z", layer).hook_name
    for kind in (*HEADED, "post"):
        site = Site(kind, layer, index)  # type: ignore[arg-type]
        assert parse(site.label) == site
        assert site.whole == Site(kind, layer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "site"),
    [
        ("L9.H6", head(9, 6)),
        ("L9.MLP", Site("mlp_out", 9)),
        ("L8.ATTN", Site("attn_out", 8)),
        ("L8.attn_out", Site("attn_out", 8)),
        ("L0.resid_pre", Site("resid_pre", 0)),
        ("embed", Site("embed")),
        ("L9.k[0]", Site("k", 9, 0)),
        ("L9.pattern[6]", Site("pattern", 9, 6)),
        ("L9.pattern", Site("pattern", 9)),
        ("L3.N127", neuron(3, 127)),
    ],
)
def test_spellings(label: str, site: Site):
    assert parse(label) == site


@pytest.mark.parametrize("label", ["", "L9", "9.6", "L9.H", "L-1.H2", "L9.H6 ", "L9.mlp", "L9.embed", "L9.N", "l9.H6", "L9.k["])
def test_what_is_no_site(label: str):
    with pytest.raises(SiteError, match="L9.H6|known:"):
        parse(label)


def test_heads_are_only_where_heads_are():
    with pytest.raises(SiteError, match=r"mlp_out has no heads; use head\(3, 1\)"):
        Site("mlp_out", 3, 1)


def test_hook_names_are_those_of_transformer_lens():
    assert Site("resid_pre", 8).hook_name == "blocks.8.hook_resid_pre"
    assert head(9, 6).hook_name == "blocks.9.attn.hook_z"
