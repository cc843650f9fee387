"""What the directions are made of, feature by feature, and what heads attend to when the reply begins."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from circuits.case.study import Study
from circuits.case.wording import number
from circuits.frames import records
from circuits.measure.attention_text import attention_on_tokens
from circuits.measure.concept_choice import ConceptChoice
from circuits.measure.features import decompose, decompose_difference, top_features
from circuits.model import Model
from circuits.prompts.instruction_tokens import InstructionTokens
from circuits.sae import Sae, bundled_saes, load_sae
from circuits.sae.library import installed
from circuits.sites import head

TOP = 10


def autoencoder(model: Model, args: argparse.Namespace) -> Sae | None:
    """The one asked for, or the model's own bundled one where sae-lens is installed.

    Raises ModelError or SiteError for one that does not fit; CircuitError for one asked for where sae-lens is missing.
    """
    where = args.sae or (model.name if model.name in bundled_saes() and installed() else None)
    return None if where is None else load_sae(where, model=model, sae_id=args.sae_id, any_model=args.any_sae)


def look(
    s: Study, args: argparse.Namespace, prompts: InstructionTokens, chosen: Mapping[str, ConceptChoice], sae: Sae | None
) -> None:
    """Features, where there is an autoencoder; attention of the heads that read the instruction the most."""
    if sae is None:
        why = "no autoencoder was named for this model (--sae)"
        if s.model.name in bundled_saes():
            why = "sae-lens, which reads this model's autoencoder, is not installed"
        s.tell("features", "Features of an autoencoder", f"Not measured: {why}.", {}, None, read="", against="")
    else:
        _features(s, args, sae, prompts, chosen)
    _attention(s, args, prompts)


def _features(
    s: Study, args: argparse.Namespace, sae: Sae, prompts: InstructionTokens, chosen: Mapping[str, ConceptChoice]
) -> None:
    for label in ("harmful", "incapable"):
        found = s.measure(f"features {label}", lambda label=label: decompose_difference(
            s.model, sae, prompts, of=label, k=TOP, seed=args.seed
        ))  # fmt: skip
        rows = records(found.to_frame())[:TOP]
        at = records(found.to_summary())[min(TOP, len(rows)) - 1]
        fired = top_features(s.model, sae, prompts, features=[int(r["feature"]) for r in rows[:5]])
        s.tell(
            f"features-{label}", f"Features that carry {label} − harmless",
            f"The top {len(rows)} of {sae.n_features} features hold {number(at['projection'])} of the difference "
            "(shuffled labels "
            f"{number(at['projection_null_mean'])}), reconstruction leaves out {number(found.error_projection)}; first: "
            f"{', '.join(r['label'] for r in rows[:3])}.",
            {f"features-{label}": found.figure(), f"features-{label}-examples": fired.figure()}, fired.to_frame(),
            read=f"{sae.title}. Each feature's part on the difference of means; the table marks the tokens that activate "
            "it most.",
            against="As few features carrying as much with shuffled labels.",
        )  # fmt: skip
    for name, choice in chosen.items():
        made = decompose(s.model, sae, choice.direction, k=TOP, seed=args.seed)
        last = records(made.to_summary())[-1]
        s.tell(
            f"features-{name}-direction", f"The {name} direction in features",
            f"{len(made.features)} decoder rows explain {number(float(made.share[-1]))} of its squared norm; of random "
            f"directions {number(float(made.null_share[:, -1].mean()))}.",
            {f"features-{name}-direction": made.figure()}, made.to_summary(),
            read="Orthogonal matching pursuit with non-negative weights, against random directions.",
            against="Random directions explained as well.", notes=(f"k = {last['k']}.",) if "k" in last else (),
        )  # fmt: skip


def _attention(s: Study, args: argparse.Namespace, prompts: InstructionTokens) -> None:
    shape = s.model.shape
    every = [head(layer, index) for layer in range(shape.n_layers) for index in range(shape.n_heads)]
    seen = s.measure("attention", lambda: attention_on_tokens(s.model, prompts, every))
    table = seen.to_summary()
    reads = table[table["role"] == "instruction"].groupby("head")["mean"].mean().sort_values(ascending=False)
    drawn = [str(name) for name in reads.index[: args.heads]]
    s.tell(
        "attention", "What heads attend to when the reply begins",
        "Most of the last position's attention to the instruction: "
        "" + ", ".join(f"{h} {number(float(reads[h]))}" for h in drawn) + ".",
        {"attention": seen.figure(heads=drawn)}, table,
        read="Each token shaded by the head's attention from the last position; grey tokens are template.",
        against="Attention spread evenly (column `even`). Attention shows where a head reads, not what it does.",
    )  # fmt: skip
