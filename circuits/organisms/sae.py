"""Train a sparse autoencoder on an organism: `python -m circuits.organisms.sae --model refusal-gemma --layer 3`.

On the activations of one site at every real position of the grammar's texts, by sae-lens' own trainer, on the CPU.
BatchTopK keeps k features per position on average; a feature that has not fired for a while is trained on what the
others leave over, so that few die. sae-lens saves it as a JumpReLU: whether a feature fires then depends on no other.
The folder is sae-lens' own, with card.json (`sae_measure`) and README.md (`sae_card`) beside it.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.errors import ModelError, SiteError
from circuits.model import Model, load
from circuits.model.resolve import bundled_models
from circuits.organisms.sae_card import render
from circuits.organisms.sae_measure import measure
from circuits.organisms.sae_texts import Text, activations, draw_texts
from circuits.sae.library import need
from circuits.sites import Site

KINDS: Final = ("resid_pre", "resid_post", "attn_out", "mlp_out")
"""Sites of the residual stream's width that a training can be asked for."""


@dataclass(frozen=True)
class SaeRecipe:
    """Every choice of a training run."""

    layer: int
    site: str = "resid_post"
    seed: int = 0
    texts: int = 12_000
    features: int = 1024
    k: float = 16
    """Features that fire at a position, on average."""
    steps: int = 3000
    batch: int = 2048
    """Positions per step."""
    learning_rate: float = 1e-3
    dead_after: int = 200
    """Steps without firing after which a feature counts as dead and is trained on what the others leave over."""

    @property
    def place(self) -> Site:
        """The site. Raises SiteError for one that is not as wide as the residual stream."""
        for kind in KINDS:
            if kind == self.site:
                return Site(kind, self.layer)
        raise SiteError(f"{self.site!r} is no site to train on; choose one of {', '.join(KINDS)}")


def train_sae(model: Model, recipe: SaeRecipe) -> Any:
    """Train on `recipe.texts` texts; sae-lens' training SAE, normalisation folded.

    Raises SiteError for no such site; CircuitError where sae-lens is not installed.
    """
    lens = need("sae_lens")
    site = recipe.place
    model.parts.locate(site)
    torch.manual_seed(recipe.seed)
    acts = activations(model, draw_texts(model, recipe.texts, seed=recipe.seed), site)
    about = need("sae_lens.saes.sae").SAEMetadata(
        model_name=model.name, hook_name=site.hook_name, model_title=model.title,
        dataset_path="texts of circuits.organisms.exercises", recipe=asdict(recipe),
    )  # fmt: skip
    sae = lens.BatchTopKTrainingSAE(
        lens.BatchTopKTrainingSAEConfig(
            d_in=acts.shape[1], d_sae=recipe.features, k=recipe.k, metadata=about,
            normalize_activations="expected_average_only_in",  # folded into the weights when the training ends
        )
    )  # fmt: skip
    samples = recipe.steps * recipe.batch
    config = need("sae_lens.config").SAETrainerConfig(
        total_training_samples=samples, train_batch_size_samples=recipe.batch, lr=recipe.learning_rate,
        lr_end=recipe.learning_rate / 10, lr_warm_up_steps=min(200, recipe.steps // 10),
        lr_decay_steps=recipe.steps // 2, dead_feature_window=recipe.dead_after, device="cpu",
        n_batches_for_norm_estimate=20, logger=lens.LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = lens.SAETrainer(cfg=config, sae=sae, data_provider=_shuffled(acts, recipe.batch, recipe.seed))
    return trainer.fit()


def _shuffled(acts: Float[Tensor, "row size"], batch: int, seed: int) -> Iterator[Float[Tensor, "row size"]]:
    """Endless batches of positions in random order."""
    order = torch.Generator().manual_seed(seed + 1)
    while True:
        for rows in torch.randperm(len(acts), generator=order).split(batch):
            yield acts[rows]


def save_sae(trained: Any, folder: Path) -> None:
    """Write sae-lens' folder of the inference model, without what the training alone needs."""
    trained.save_inference_model(folder)
    config = folder / "cfg.json"
    found = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def held_out(model: Model, recipe: SaeRecipe, n: int) -> list[Text]:
    """Fresh texts, none of which the training had."""
    seen = {tuple(text.ids) for text in draw_texts(model, recipe.texts, seed=recipe.seed)}
    drawn = draw_texts(model, 4 * n, seed=recipe.seed + 10_000)
    kept = list({tuple(text.ids): text for text in drawn if tuple(text.ids) not in seen}.values())[:n]
    if len(kept) < n:
        raise ModelError(f"only {len(kept)} of {n} held-out texts are new; train on fewer texts")
    return kept


def folder_of(model: str, recipe: SaeRecipe) -> Path:
    """Where the autoencoder of a bundled model lies. Raises ModelError for a model that is not bundled."""
    known = bundled_models()
    if model not in known:
        raise ModelError(f"{model} is not bundled ({', '.join(known)}); say with --out where its autoencoder goes")
    return known[model] / "sae" / recipe.place.label


def main(arguments: list[str] | None = None) -> None:
    """Train, save, measure on held-out texts and write the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="refusal-gemma", help="bundled name, or folder in Hugging Face format")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--site", choices=KINDS, default=SaeRecipe.site)
    for name, kind in (("features", int), ("k", float), ("steps", int), ("texts", int), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(SaeRecipe, name))
    parser.add_argument("--held-out", type=int, default=1500, help="texts that the card is measured on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default: sae/SITE in the bundled model's folder")
    options = vars(parser.parse_args(arguments))
    torch.set_num_threads(options.pop("threads"))
    name, out, fresh = options.pop("model"), options.pop("out"), options.pop("held_out")
    recipe = SaeRecipe(**options)
    target = cast("Path", out) if out is not None else folder_of(name, recipe)
    model = load(name, device="cpu")
    started = time.perf_counter()
    save_sae(train_sae(model, recipe), target)
    seconds = time.perf_counter() - started
    about = {"recipe": asdict(recipe), "wall_seconds": round(seconds, 1)}
    card = about | measure(model, target, held_out(model, recipe, fresh))
    (target / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (target / "README.md").write_text(render(card), encoding="utf-8")
    sys.stdout.write(json.dumps({key: card[key] for key in ("reconstruction", "features", "loss")}, indent=1) + "\n")


if __name__ == "__main__":
    main()
