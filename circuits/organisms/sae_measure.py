"""Everything that the card of an autoencoder says, as numbers, on texts that its training did not have."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.model import Model
from circuits.organisms.sae_texts import Batch, Text, at_site, batches, run, seen
from circuits.sae import Sae, load_sae

Numbers = dict[str, Any]
_OFTEN = 0.1
"""A feature that fires at more than this share of positions is counted as frequent."""


def measure(model: Model, folder: Path, texts: Sequence[Text]) -> Numbers:
    """Reconstruction, features and loss of the autoencoder in `folder`, loaded as a user loads it."""
    sae = load_sae(str(folder), model=model)
    place = {"site": sae.site.label, "hook_name": sae.site.hook_name, "width": sae.inner.cfg.d_in}
    files = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    about = {
        "model": model.name, "title": model.title, "architecture": sae.architecture, "n_features": sae.n_features,
        "megabytes": files / 1e6, "texts": len(texts), "positions": sum(len(text.ids) for text in texts),
    }  # fmt: skip
    return rounded(about | place | _reconstruction(model, sae, texts) | {"loss": losses(model, sae, texts)})


def rounded(value: Any) -> Any:
    """Floats to five significant digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return {key: rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


def _reconstruction(model: Model, sae: Sae, texts: Sequence[Text]) -> Numbers:
    acts: dict[str, list[Tensor]] = {"all": [], "after the first": [], "before the reply": []}
    fired, n, active = torch.zeros(sae.n_features), 0, 0.0
    for batch in batches(texts):
        act = seen(model, sae.site, batch)
        first = torch.zeros_like(batch.real)
        first[:, 0] = True
        before = batch.real & ~batch.reply & batch.reply.roll(-1, 1)
        for name, chosen in (
            ("all", batch.real),
            ("after the first", batch.real & ~first),
            ("before the reply", before),
        ):
            acts[name].append(act[chosen])
        features = sae.encode(act[batch.real])
        fired += (features != 0).sum(0)
        active += float((features != 0).sum())
        n += len(features)
    share = fired / n
    return {
        "reconstruction": {name: _explained(sae, torch.cat(found)) for name, found in acts.items()},
        "features": {
            "l0": active / n, "dead": float((fired == 0).float().mean()), "frequent": float((share > _OFTEN).float().mean()),
            "median_density": float(share[fired > 0].median()),
        },
    }  # fmt: skip


def _explained(sae: Sae, act: Float[Tensor, "row size"]) -> float:
    """1 − Σ‖error‖²/Σ‖act − mean act‖² over these positions."""
    act = act.double()
    error = sae.error(act.float()).double()
    return float(1 - (error**2).sum() / ((act - act.mean(0)) ** 2).sum())


def losses(model: Model, sae: Sae, texts: Sequence[Text]) -> Numbers:
    """Cross-entropy per token, in nats, of replies and of whole texts, with the site left, reconstructed and ablated.

    `recovered` is (ablated − reconstructed)/(ablated − left), with the site's mean over these positions, or zero, for
    the ablation.
    """
    mean = torch.cat([seen(model, sae.site, batch)[batch.real] for batch in batches(texts)]).mean(0)

    def reconstruct(act: Tensor) -> Tensor:
        return (act - sae.error(act)).to(act.dtype)

    edits: dict[str, Callable[[Tensor], Tensor | None]] = {
        "left": lambda _: None,
        "reconstructed": reconstruct,
        "mean_ablated": lambda act: mean.to(act).expand_as(act),
        "zero_ablated": torch.zeros_like,
    }
    found: Numbers = {"reply": {}, "text": {}}
    for name, edit in edits.items():
        sums = torch.zeros(2, 2, dtype=torch.double)
        for batch in batches(texts):
            with at_site(model, sae.site, edit):
                sums += _cross_entropy(run(model, batch), batch)
        found["reply"][name], found["text"][name] = (sums[:, 0] / sums[:, 1]).tolist()
    for loss in found.values():
        for ablated in ("mean_ablated", "zero_ablated"):
            gap = loss[ablated] - loss["left"]
            loss[f"recovered_of_{ablated}"] = (loss[ablated] - loss["reconstructed"]) / gap
    return found


def _cross_entropy(logits: Float[Tensor, "batch pos d_vocab"], batch: Batch) -> Float[Tensor, "2 2"]:
    """Sum and count over reply tokens, then over all real tokens but the first."""
    flat = nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none"
    )
    chosen = torch.stack([batch.reply[:, 1:].flatten(), batch.real[:, 1:].flatten()]).double()
    return torch.stack([chosen @ flat.double(), chosen.sum(1)], dim=1)
