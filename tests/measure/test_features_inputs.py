"""What feeds a feature: against plain hooks, and where it is known by construction."""

from __future__ import annotations

import pytest
import small_models
import small_saes
import torch

from circuits.errors import SiteError, UndefinedError
from circuits.graph import component_graph
from circuits.measure.features import feature_inputs
from circuits.measure.features.inputs import before
from circuits.sae import load_sae
from circuits.sites import Site, head


@pytest.fixture(scope="module")
def model():
    return small_models.model("llama")


@pytest.fixture(scope="module")
def tokens():
    return small_models.uneven()


@pytest.fixture(scope="module")
def sae(model, tmp_path_factory):
    return load_sae(str(small_saes.write(tmp_path_factory.mktemp("saes") / "random")), model=model)


def last_features(tokens, sae, ids, swap=None):
    """Features at the last position by plain hooks; `swap` is (layer, MLP output to put in its place)."""
    raw, kept, handles = small_models.raw("llama"), {}, []
    handles.append(
        raw.model.layers[1].register_forward_hook(
            lambda _, __, out: kept.update(h=out[0] if isinstance(out, tuple) else out)
        )
    )
    for layer in (0, 1):

        def mlp(_, __, out, layer=layer):
            kept[layer] = out
            if swap is not None and swap[0] == layer:
                new = out.clone()
                new[:, -1] = swap[1][:, -1]
                return new
            return None

        handles.append(raw.model.layers[layer].mlp.register_forward_hook(mlp))
    try:
        with torch.no_grad():
            positions = (tokens.mask.long().cumsum(1) - 1).clamp(min=0)
            raw(input_ids=ids, attention_mask=tokens.mask.long(), position_ids=positions)
    finally:
        for handle in handles:
            handle.remove()
    w = {name: t.detach() for name, t in sae.inner.state_dict().items()}
    return ((kept["h"][:, -1] - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu(), kept


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_senders_change_features_as_plain_hooks_say(model, tokens, sae, direction):
    base, source = (tokens.corrupt, tokens.clean) if direction == "denoise" else (tokens.clean, tokens.corrupt)
    there, kept = last_features(tokens, sae, source)
    here, _ = last_features(tokens, sae, base)
    result = feature_inputs(model, tokens, sae, range(48), direction=direction)
    torch.testing.assert_close(result.base, here, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.source, there, atol=1e-5, rtol=1e-4)
    for layer in (0, 1):
        expected, _ = last_features(tokens, sae, base, swap=(layer, kept[layer]))
        mine = result.value[:, result.senders.index(f"L{layer}.MLP")]
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
    assert (result.value - result.base[:, None]).abs().max() > 1e-3


def test_the_residual_stream_before_the_site_brings_all_of_it(model, tokens, sae):
    whole = feature_inputs(
        model, tokens, sae, [0, 1, 2, 3], senders=[Site("embed"), Site("resid_mid", 1)], positions="all"
    )
    torch.testing.assert_close(whole.value[:, 0], whole.source, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole.value[:, 1], whole.source, atol=1e-5, rtol=1e-4)
    table = whole.to_summary()
    assert table["mean"].to_numpy() == pytest.approx(1, abs=1e-3)


def test_only_what_comes_before_is_patched(model, tokens, sae, tmp_path):
    assert [s.label for s in before(model, Site("resid_mid", 1))] == [
        *(f"L0.H{h}" for h in range(4)), "L0.MLP", *(f"L1.H{h}" for h in range(4)),
    ]  # fmt: skip
    assert Site("mlp_out", 1) in before(model, sae.site)
    assert Site("mlp_out", 1) not in before(model, Site("mlp_out", 1))
    with pytest.raises(SiteError, match="L2.H0: not before L1.resid_post"):
        feature_inputs(model, tokens, sae, [0], senders=[head(2, 0)])
    with pytest.raises(SiteError, match="no features to read"):
        feature_inputs(model, tokens, sae, [])
    first = load_sae(str(small_saes.write(tmp_path / "first", hook="blocks.0.hook_resid_pre")), model=model)
    with pytest.raises(SiteError, match="no head or MLP comes before L0.resid_pre"):
        feature_inputs(model, tokens, first, [0])
    same = tokens.select([0])
    again = type(same)(**{**vars(same), "corrupt": same.clean, "corrupt_text": same.clean_text})
    with pytest.raises(UndefinedError, match="none of these features differs"):
        feature_inputs(model, again, sae, [0, 1])


def test_senders_and_features_are_nodes_of_one_graph(model, tokens, sae, says):
    result = feature_inputs(model, tokens, sae, [4, 9, 12])
    nodes, edges = result.graph_rows()
    own = {"model": "toy", "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_model": 32}
    graph = component_graph(nodes, edges, own)
    table = result.to_summary().set_index(["sender", "feature"])
    defined = table["mean"].notna()
    assert graph.number_of_edges() == len(table)
    for (sender, feature), row in table[defined].iterrows():
        edge = graph.edges[f"{sender}@last", f"L1.F{feature}@last", "feeds"]
        assert edge["effect"] == row["mean"]
    assert graph.nodes["L1.F9@last"]["kind"] == "feature"
    frame = result.to_frame()
    row = frame[(frame["pair"] == 1) & (frame["sender"] == "L0.MLP") & (frame["feature"] == 9)].iloc[0]
    assert row["value"] == pytest.approx(float(result.value[1, result.senders.index("L0.MLP"), 1]))
    says(result.figure(), "llama")
