"""Only what fits the model is loaded, nothing is unpickled, and every wrong case says what and where."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import small_models
import small_saes
import torch

from circuits.errors import CircuitError, ModelError, SiteError
from circuits.model import hooks
from circuits.sae import load_sae
from circuits.sae.check import site_of
from circuits.sites import HOOK_NAMES, Site

pytestmark = pytest.mark.skipif(find_spec("sae_lens") is None, reason="sae-lens is not installed")


@pytest.fixture
def model():
    return small_models.model("llama")


@pytest.fixture
def folder(tmp_path):
    return small_saes.write(tmp_path / "mine")


def test_a_folder_is_loaded_with_what_it_says(model, folder):
    sae = load_sae(str(folder), model=model)
    assert (sae.name, sae.site, sae.n_features, sae.size) == ("mine", Site("resid_post", 1), 48, (32,))
    assert (sae.architecture, sae.trained_on, sae.normalised) == ("standard", "llama", False)
    torch.testing.assert_close(sae.direction(5), small_saes.built().W_dec[5].detach())
    assert load_sae(str(folder.parent), sae_id="mine", model=model).hash == sae.hash


def test_another_seed_is_another_hash(model, folder, tmp_path):
    other = small_saes.write(tmp_path / "other", seed=1)
    assert load_sae(str(other), model=model).hash != load_sae(str(folder), model=model).hash


def test_nothing_is_run_while_loading(model, folder, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a forward pass while loading")

    monkeypatch.setattr(model.hf, "forward", never)
    monkeypatch.setattr(hooks, "hooked", never)
    load_sae(str(folder), model=model)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"about_hook_name": None}, SiteError, "names no hook"),
        ({"about_hook_name": "blocks.9.hook_resid_pre"}, SiteError, "L9.resid_pre: this model has layers 0 to 3"),
        ({"about_hook_name": "blocks.1.ln1.hook_normalized"}, SiteError, "is no site of this package"),
        ({"about_hook_name": "blocks.1.mlp.hook_post"}, ModelError, "reads 32 numbers, but L1.post of llama has 48"),
        ({"about_hook_head_index": 2}, SiteError, "reads one head"),
        ({"about_hook_name_out": "blocks.1.hook_mlp_out"}, SiteError, "a transcoder"),
        ({"about_model_name": "gpt2-small"}, ModelError, "trained on gpt2-small, and this model is llama\n.*any_model=True"),
        ({"about_model_from_pretrained_kwargs": {"center_writing_weights": True}}, ModelError, "center_writing_weights"),
        ({"architecture": "transcoder"}, ModelError, "a transcoder is not read here"),
        ({"architecture": "no such"}, ModelError, "a no such is not read here"),
        ({"d_in": 64}, ModelError, "reads 64 numbers, but L1.resid_post of llama has 32"),
        ({"d_sae": 0}, ModelError, "d_sae = 0"),
        ({"d_sae": 50}, ModelError, "does not load|its decoder is"),
        ({"normalize_activations": "expected_average_only_in"}, ModelError, "whose constants its folder does not hold"),
        ({"normalize_activations": "by hand"}, ModelError, "'by hand' is not known here"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error_that_says_so(model, folder, changes, error, said):
    with pytest.raises(error, match=said) as caught:
        load_sae(str(small_saes.edited(folder, **changes)), model=model)
    assert "mine" in str(caught.value)


def test_another_models_can_be_asked_for(model, folder):
    small_saes.edited(folder, about_model_name="gpt2-small", about_model_from_pretrained_kwargs={"fold_ln": True})
    sae = load_sae(str(folder), model=model, any_model=True)
    assert sae.trained_on == "gpt2-small"
    assert "trained on gpt2-small" in sae.title
    small_saes.edited(folder, d_in=16)
    with pytest.raises(ModelError, match="reads 16 numbers"):  # no width is overridden
        load_sae(str(folder), model=model, any_model=True)


@pytest.mark.parametrize("named", ["Meta/LLAMA", "llama", None])
def test_one_name_is_written_in_several_ways(model, folder, named):
    small_saes.edited(folder, about_model_name=named)
    sae = load_sae(str(folder), model=model)
    assert sae.trained_on == (named or "")
    assert named or "not said on which model" in sae.title


def test_damaged_folders_are_said(model, folder, tmp_path):
    def broken(name, do):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        do(copy)
        with pytest.raises(ModelError) as caught:
            load_sae(str(copy), model=model)
        assert name in str(caught.value)
        return str(caught.value)

    assert "cfg.json is missing" in broken("a", lambda f: (f / "cfg.json").unlink())
    assert "sae_weights.safetensors is missing" in broken("b", lambda f: (f / "sae_weights.safetensors").unlink())
    pickled = broken("c", lambda f: (f / "sae_weights.safetensors").rename(f / "sae_weights.pt"))
    assert "sae_weights.pt is a pickle and is not read" in pickled
    assert "does not load" in broken("d", lambda f: (f / "sae_weights.safetensors").write_bytes(b"nothing"))
    assert "is not read" in broken("e", lambda f: (f / "cfg.json").write_text("{"))
    assert "is no configuration" in broken("f", lambda f: (f / "cfg.json").write_text("[]"))


def test_weights_that_are_not_finite_are_refused(model, tmp_path):
    sae = small_saes.built()
    with torch.no_grad():
        sae.W_enc[3, 4] = float("nan")
    sae.save_model(tmp_path / "nan")
    with pytest.raises(ModelError, match="W_enc holds values that are not finite"):
        load_sae(str(tmp_path / "nan"), model=model)


@pytest.mark.parametrize(
    ("where", "sae_id", "said"),
    [
        ("no-such-thing", None, "no autoencoder called 'no-such-thing'"),
        ("gpt2-small-res-jb", None, "needs sae_id=, one of its autoencoders: blocks.0.hook_resid_pre"),
        ("gpt2-small-res-jb", "nothing", "'nothing' is none"),
        ("owner/repository", None, "needs sae_id="),
        ("gpt2-small-attn-out-v5-32k", None, "needs sae_id="),
    ],
)
def test_names_that_lead_nowhere_are_said(model, where, sae_id, said):
    with pytest.raises(ModelError, match=said):
        load_sae(where, sae_id=sae_id, model=model)


def test_a_release_of_pickles_is_not_read(model):
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    pickles = [
        (n, r) for n, r in get_pretrained_saes_directory().items() if r.conversion_func == "dictionary_learning_1"
    ]
    name, release = pickles[0]
    with pytest.raises(ModelError, match="are pickles, which can run code"):
        load_sae(name, sae_id=next(iter(release.saes_map)), model=model)


def test_a_file_is_no_folder(model, folder):
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_sae(str(folder / "cfg.json"), model=model)
    with pytest.raises(ModelError, match="has no autoencoder 'absent'; there are mine"):
        load_sae(str(folder.parent), sae_id="absent", model=model)


def test_the_hub_serves_the_same(model, folder, monkeypatch):
    """With a hub that serves a folder: what is checked and loaded is what the folder gives."""
    from sae_lens.loading import pretrained_sae_loaders as loaders

    asked = []

    def download(repo_id, filename, **_):
        asked.append((repo_id, filename))
        path = folder / filename.partition("/")[2]
        if not path.exists():
            raise loaders.EntryNotFoundError(f"no {filename}")
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    sae = load_sae("owner/repository", sae_id="layer_1", model=model)
    assert sae.name == "owner/repository/layer_1"
    assert sae.hash == load_sae(str(folder), model=model).hash
    assert asked[0] == ("owner/repository", "layer_1/cfg.json")
    asked.clear()
    small_saes.edited(folder, about_model_name="gpt2-small")
    with pytest.raises(ModelError, match="trained on gpt2-small"):
        load_sae("owner/repository", sae_id="layer_1", model=model)
    assert [name for _, name in asked] == ["layer_1/cfg.json"]  # refused before the weights are fetched


def test_a_hub_out_of_reach_says_what_to_do(model, monkeypatch):
    from sae_lens.loading import pretrained_sae_loaders as loaders

    def unreachable(**_):
        raise OSError("no network")

    monkeypatch.setattr(loaders, "hf_hub_download", unreachable)
    with pytest.raises(CircuitError, match=r"hub is unreachable.*no network\)\ndownload it"):
        load_sae("owner/repository", sae_id="layer_1", model=model)


def test_hook_names_are_those_of_sites():
    for kind in ("resid_pre", "z", "attn_out", "resid_mid", "post", "mlp_out", "resid_post"):
        assert site_of(HOOK_NAMES[kind].format(layer=12)) == Site(kind, 12)
    assert site_of("hook_embed") == Site("embed")
    assert site_of("blocks.3.hook_in") == Site("resid_pre", 3)
    assert site_of("blocks.3.hook_out") == Site("resid_post", 3)
    for wrong in (
        "blocks.3.mlp.hook_out",
        "blocks.3.attn.hook_pattern",
        "blocks..hook_resid_pre",
        "xblocks.1.hook_resid_pre",
    ):
        with pytest.raises(SiteError):
            site_of(wrong)
