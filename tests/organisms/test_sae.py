"""The bundled autoencoders do what their cards say, and the script that made them works on any organism."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec

import pytest
import torch

from circuits.errors import ModelError, SiteError
from circuits.model import load
from circuits.model.resolve import bundled_models
from circuits.organisms import sae as script
from circuits.organisms.sae_card import render
from circuits.organisms.sae_measure import losses, measure
from circuits.organisms.sae_texts import at_site, batches, draw_texts, run, seen
from circuits.sae import bundled_saes, load_sae
from circuits.sites import Site

pytestmark = pytest.mark.skipif(find_spec("sae_lens") is None, reason="sae-lens is not installed")
BUNDLED = [(name, sae_id) for name, saes in bundled_saes().items() for sae_id in saes]


@cache
def model(name):
    return load(name, device="cpu")


def card_of(name, sae_id):
    folder = bundled_saes()[name][sae_id]
    return folder, json.loads((folder / "card.json").read_text(encoding="utf-8"))


def test_the_default_model_has_one():
    assert "refusal-gemma" in bundled_saes()
    sae = load_sae("refusal-gemma", model=model("refusal-gemma"))
    assert sae.n_features >= 512
    assert sae.trained_on == "refusal-gemma"


@pytest.mark.parametrize(("name", "sae_id"), BUNDLED)
def test_the_numbers_of_the_card_are_found_again(name, sae_id):
    """On other texts than those of the card; 160 of them leave some room."""
    folder, card = card_of(name, sae_id)
    texts = draw_texts(model(name), 160, seed=777)
    found = measure(model(name), folder, texts)
    for key, value in card["reconstruction"].items():
        assert found["reconstruction"][key] == pytest.approx(value, abs=0.02), key
    assert found["features"]["l0"] == pytest.approx(card["features"]["l0"], rel=0.1)
    assert found["features"]["dead"] >= card["features"]["dead"]  # fewer texts wake fewer features
    for kind, loss in card["loss"].items():
        for key in ("recovered_of_mean_ablated", "recovered_of_zero_ablated"):
            assert found["loss"][kind][key] == pytest.approx(loss[key], abs=0.01), (kind, key)
    for key in ("model", "site", "n_features", "architecture", "width"):
        assert found[key] == card[key]


@pytest.mark.parametrize(("name", "sae_id"), BUNDLED)
def test_a_bundled_autoencoder_is_worth_using(name, sae_id):
    folder, card = card_of(name, sae_id)
    assert min(card["reconstruction"][key] for key in ("all", "after the first")) >= 0.9
    assert card["features"]["l0"] <= 30
    assert card["features"]["dead"] <= 0.1
    assert card["loss"]["reply"]["recovered_of_mean_ablated"] >= 0.95
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 2e6


@pytest.mark.parametrize(("name", "sae_id"), BUNDLED)
def test_the_card_says_what_it_is_not_and_nothing_that_was_not_measured(name, sae_id):
    folder, card = card_of(name, sae_id)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text == render(card)
    assert "; not " in card["title"]
    assert card["title"] in text
    brand = card["title"].rsplit("; not ", 1)[1].rstrip(")")
    assert f"not {brand}, and nothing here was trained on {brand}" in text
    config = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    assert config["metadata"]["model_name"] == name == card["model"]
    assert config["metadata"]["recipe"] == card["recipe"]


def test_held_out_texts_are_new():
    recipe = script.SaeRecipe(layer=3, texts=300)
    seen_before = {tuple(text.ids) for text in draw_texts(model("refusal-gemma"), 300, seed=0)}
    fresh = script.held_out(model("refusal-gemma"), recipe, 50)
    assert len({tuple(text.ids) for text in fresh}) == 50
    assert not seen_before & {tuple(text.ids) for text in fresh}


@pytest.mark.parametrize("kind", script.KINDS)
def test_the_site_that_is_trained_on_is_the_engines(kind):
    """Right-padded batches and plain hooks see what the engine sees with its own padding."""
    from circuits.engine.capture import capture
    from circuits.engine.edits import activation_of

    gemma = model("refusal-gemma")
    batch = next(batches(draw_texts(gemma, 6, seed=3)))
    site = Site(kind, 2)
    own = seen(gemma, site, batch)
    engine = activation_of(capture(gemma, batch.ids, batch.real, [site]), site)
    torch.testing.assert_close(own[batch.real], engine[batch.real], atol=1e-4, rtol=1e-4)


def test_ablating_by_its_own_activation_changes_nothing():
    gemma = model("refusal-gemma")
    batch = next(batches(draw_texts(gemma, 4, seed=3)))
    with at_site(gemma, Site("resid_post", 3), lambda act: act.clone()):
        same = run(gemma, batch)
    torch.testing.assert_close(same, run(gemma, batch))
    with at_site(gemma, Site("resid_post", 3), torch.zeros_like):
        assert (run(gemma, batch) - same).abs().max() > 1


def test_a_perfect_autoencoder_recovers_everything(tmp_path):
    import small_saes

    gemma = model("refusal-gemma")
    folder = small_saes.planted(tmp_path / "perfect", d=64, hook="blocks.3.hook_resid_post", model="refusal-gemma")
    texts = draw_texts(gemma, 12, seed=1)
    found = losses(gemma, load_sae(str(folder), model=gemma), texts)
    for loss in found.values():
        assert loss["reconstructed"] == pytest.approx(loss["left"], abs=1e-5)
        assert loss["recovered_of_mean_ablated"] == pytest.approx(1, abs=1e-5)


def test_the_script_trains_saves_and_measures(tmp_path, capsys):
    arguments = ["--layer", "2", "--features", "96", "--k", "8", "--steps", "40", "--texts", "60", "--held-out", "20"]
    folder = str(bundled_models()["refusal-gemma"])
    script.main(["--model", folder, *arguments, "--out", str(tmp_path / "sae")])
    card = json.loads((tmp_path / "sae" / "card.json").read_text())
    assert json.loads(capsys.readouterr().out)["features"] == card["features"]
    sae = load_sae(str(tmp_path / "sae"), model=model("refusal-gemma"))
    assert (sae.site, sae.n_features, sae.architecture) == (Site("resid_post", 2), 96, "jumprelu")
    assert card["reconstruction"]["all"] > 0
    assert (tmp_path / "sae" / "README.md").read_text() == render(card)


@pytest.mark.parametrize("name", ["gemma2", "qwen2"])
def test_the_script_takes_every_architecture(tmp_path, name):
    """Untrained, of a few weights: what an autoencoder finds there means nothing, but it is trained on the right site."""
    from circuits.organisms.tokenizer import DIALECTS, build_tokenizer
    from circuits.organisms.train import Recipe, new_model

    torch.manual_seed(3)
    known = DIALECTS[name] == DIALECTS["gemma"]
    tokenizer = model("refusal-gemma").tokenizer if known else build_tokenizer(DIALECTS[name])
    sizes = {"layers": 3, "width": 32, "heads": 4, "head_width": 8, "mlp_width": 48}
    new_model(Recipe(architecture=name, **sizes), tokenizer).save_pretrained(tmp_path / "organism")
    tokenizer.save_pretrained(tmp_path / "organism")
    arguments = ["--layer", "1", "--features", "48", "--k", "4", "--steps", "20", "--texts", "40", "--held-out", "12"]
    script.main(
        ["--model", str(tmp_path / "organism"), *arguments, "--site", "mlp_out", "--out", str(tmp_path / "sae")]
    )
    organism = load(str(tmp_path / "organism"), device="cpu")
    sae = load_sae(str(tmp_path / "sae"), model=organism)
    assert (sae.site, sae.trained_on) == (Site("mlp_out", 1), "organism")
    with pytest.raises(ModelError, match="reads 32 numbers|trained on organism"):
        load_sae(str(tmp_path / "sae"), model=model("refusal-gemma"))


def test_what_cannot_be_trained_is_said():
    with pytest.raises(SiteError, match="'pattern' is no site to train on"):
        _ = script.SaeRecipe(layer=0, site="pattern").place
    with pytest.raises(ModelError, match="is not bundled"):
        script.folder_of("elsewhere", script.SaeRecipe(layer=0))
