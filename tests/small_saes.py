"""Random and planted autoencoders in sae-lens' own folders, for the tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

CLASSES = {
    "standard": ("StandardSAE", "StandardSAEConfig", {}),
    "topk": ("TopKSAE", "TopKSAEConfig", {"k": 6}),
    "topk by norm": ("TopKSAE", "TopKSAEConfig", {"k": 6, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("AbsTopKSAE", "AbsTopKSAEConfig", {"k": 6}),
    "jumprelu": ("JumpReLUSAE", "JumpReLUSAEConfig", {}),
    "gated": ("GatedSAE", "GatedSAEConfig", {}),
}


def built(
    architecture="standard", *, d_in=32, d_sae=48, seed=0, hook="blocks.1.hook_resid_post", model="llama", **more
):
    """sae-lens' own module with random weights, in which about half of the features fire; without it, no test."""
    sae_lens = pytest.importorskip("sae_lens")
    from sae_lens.saes.sae import SAEMetadata

    module, config, own = CLASSES[architecture]
    about = SAEMetadata(hook_name=hook, **({} if model is None else {"model_name": model}), **more.pop("about", {}))
    sae = getattr(sae_lens, module)(getattr(sae_lens, config)(d_in=d_in, d_sae=d_sae, metadata=about, **own, **more))
    generator = torch.Generator().manual_seed(1000 + seed)  # not the draws of random directions
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.3 if name == "W_enc" else 0.2))
        if hasattr(sae, "threshold"):
            sae.threshold.abs_()
    return sae


def write(folder: Path, architecture="standard", **choices) -> Path:
    built(architecture, **choices).save_model(folder)
    return folder


def planted(folder: Path, *, d=32, hook="blocks.1.hook_resid_post", model="llama", seed=0, drop=0) -> Path:
    """Features are coordinates: rows ±q of a rotation Q, so that relu splits each coordinate by its sign.

    Feature i < d is the positive part of ⟨q_i, act⟩, feature d + i the negative one: act = Σ f_i q_i − Σ f_{d+i} q_i, exactly.
    `drop` leaves out the last coordinates: they are the error.
    """
    sae = built(d_in=d, d_sae=2 * (d - drop), hook=hook, model=model)
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))
    rows = torch.cat([q[: d - drop], -q[: d - drop]])
    with torch.no_grad():
        sae.W_dec.copy_(rows)
        sae.W_enc.copy_(rows.T)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    sae.save_model(folder)
    return folder


def edited(folder: Path, **changes) -> Path:
    """Change the folder's configuration; None takes a key away. Keys of the metadata start with `about_`."""
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        into, name = (config["metadata"], key.removeprefix("about_")) if key.startswith("about_") else (config, key)
        if value is None:
            into.pop(name, None)
        else:
            into[name] = value
    path.write_text(json.dumps(config))
    return folder
