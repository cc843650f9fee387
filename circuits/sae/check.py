"""What an autoencoder's configuration says, held against the model before anything is run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from circuits.errors import ModelError, SiteError
from circuits.model import Model
from circuits.sites import HOOK_NAMES, Site, SiteKind

ARCHITECTURES: Final = ("standard", "gated", "topk", "abstopk", "jumprelu")
"""Those that read and write one site, position by position."""
_KINDS: Final[tuple[SiteKind, ...]] = (
    "embed", "resid_pre", "z", "attn_out", "resid_mid", "post", "mlp_out", "resid_post",
)  # fmt: skip
_ALIASES: Final = {"hook_in": "hook_resid_pre", "hook_out": "hook_resid_post"}
"""What newer transformer-lens calls the two ends of a block."""
NORMALISED: Final = ("layer_norm", "constant_norm_rescale")
"""Normalisations whose scale is each activation's own."""
_LEFT_OPEN: Final = ("expected_average_only_in", "covariance_whitening")
"""Normalisations by constants of the training, which sae-lens folds into the weights when the training ends."""
_PROCESSING: Final = (
    "fold_ln",
    "center_writing_weights",
    "center_unembed",
    "fold_value_biases",
    "refactor_factored_attn_matrices",
)


@final
@dataclass(frozen=True)
class Fit:
    """What was checked: the site it reads, how many features it has, and whose activations it was trained on."""

    site: Site
    size: tuple[int, ...]
    n_features: int
    architecture: str
    normalisation: str
    trained_on: str


def site_of(hook_name: str) -> Site:
    """The site that transformer-lens calls `hook_name`. Raises SiteError for a hook that is no site of this package."""
    block, _, hook = hook_name.rpartition(".")
    name = f"{block}.{_ALIASES[hook]}" if re.fullmatch(r"blocks\.\d+", block) and hook in _ALIASES else hook_name
    for kind in _KINDS:
        pattern = re.escape(HOOK_NAMES[kind]).replace(r"\{layer\}", r"(\d+)")
        found = re.fullmatch(pattern, name, re.ASCII)
        if found:
            return Site(kind, int(found[1])) if found.groups() else Site(kind)
    raise SiteError(
        f"the hook {hook_name!r} is no site of this package; known: {', '.join(_KINDS)} by transformer-lens' names"
    )


def check_config(config: Mapping[str, Any], model: Model, where: str, *, any_model: bool) -> Fit:
    """Whether an autoencoder of this configuration can be read on `model`; `where` stands first in every message.

    Raises ModelError for another kind of autoencoder, another width or another model; SiteError for a site that
    `model` does not have.
    """
    about: Mapping[str, Any] = config.get("metadata") or {}
    architecture = config.get("architecture")
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{where}: a {architecture} is not read here; known: {', '.join(ARCHITECTURES)}, which reconstruct the site "
            "that they read, position by position"
        )
    site = _site(about, model, where)
    size = model.shape.tail(site, 1)
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    if d_in != math.prod(size):
        raise ModelError(f"{where}: it reads {d_in} numbers, but {site.label} of {model.name} has {math.prod(size)}")
    if not isinstance(d_sae, int) or d_sae < 1:
        raise ModelError(f"{where}: its configuration says d_sae = {d_sae!r}; it must say how many features there are")
    normalisation = str(config.get("normalize_activations") or "none")
    if normalisation not in ("none", *NORMALISED, *_LEFT_OPEN):
        raise ModelError(f"{where}: the normalisation {normalisation!r} is not known here")
    trained_on = str(about.get("model_name") or "")
    if not any_model:
        _same_model(about, trained_on, model, where)
    return Fit(site, size, d_sae, architecture, normalisation, trained_on)


def require_folded(normalisation: str, where: str) -> None:
    """Raise ModelError where the constants of the training's normalisation were not folded into the weights."""
    if normalisation in _LEFT_OPEN:
        raise ModelError(
            f"{where}: it was trained on activations normalised by {normalisation}, whose constants its folder does not hold\n"
            "fold them in (sae-lens does at the end of fit(), or fold_activation_norm_scaling_factor) and save it again"
        )


def _site(about: Mapping[str, Any], model: Model, where: str) -> Site:
    hook = about.get("hook_name")
    if not isinstance(hook, str):
        raise SiteError(
            f"{where}: its configuration names no hook (metadata.hook_name), so its site is not known; add it"
        )
    if about.get("hook_head_index") is not None:
        raise SiteError(
            f"{where}: it reads one head of {hook} ({about['hook_head_index']}); only whole sites are read here"
        )
    other = about.get("hook_name_out")
    if other not in (None, hook):
        raise SiteError(
            f"{where}: it reads {hook} and writes {other}, a transcoder; only autoencoders of one site are read here"
        )
    try:
        site = site_of(hook)
        model.parts.locate(site)
    except SiteError as error:
        raise SiteError(f"{where}: {error}") from error
    return site


def _same_model(about: Mapping[str, Any], trained_on: str, model: Model, where: str) -> None:
    if trained_on and _plain(trained_on) != _plain(model.name):
        raise ModelError(
            f"{where}: it was trained on {trained_on}, and this model is {model.name}\n"
            f"load that model, or say any_model=True to read it here all the same, as a control or for a fine-tuned model"
        )
    changed = about.get("model_from_pretrained_kwargs") or {}
    done = [name for name in _PROCESSING if changed.get(name)]
    if done:
        raise ModelError(
            f"{where}: it was trained on weights that were changed first ({', '.join(done)}); this package runs them as they "
            "are, so its activations are others\nsay any_model=True to read it all the same"
        )


def _plain(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower().replace("_", "-")
