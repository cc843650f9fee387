"""load_sae(): one call from a name to an autoencoder that fits the model. Arrays are read, nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from circuits.errors import ModelError
from circuits.model import Model
from circuits.sae.check import NORMALISED, check_config, require_folded
from circuits.sae.handle import Sae
from circuits.sae.library import need
from circuits.sae.place import CONFIG, SaePlace, resolve_sae


def load_sae(where: str, *, model: Model, sae_id: str | None = None, any_model: bool = False) -> Sae:
    """Load a sparse autoencoder and check it against `model`; no forward pass is run.

    `where`: the name of a bundled model, a folder that sae-lens wrote, a release that sae-lens knows, or a repository of
    the hub; `sae_id` names one of several. `any_model` reads one that names another model, or changed weights, all the
    same. Raises ModelError for one that is missing, pickled, damaged, of another width or trained on another model;
    SiteError for a site that the model does not have; CircuitError where sae-lens is not installed.
    """
    place = resolve_sae(where, sae_id)
    config = _hub_config(place) if place.folder is None else _local_config(place.folder)
    fit = check_config(config, model, place.name, any_model=any_model)
    if place.folder is not None:
        require_folded(fit.normalisation, place.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what sae-lens warns of was checked above, or is next
        inner = _weights(place, str(model.device))
    require_folded(inner.cfg.normalize_activations, place.name)
    if tuple(inner.W_dec.shape) != (fit.n_features, config["d_in"]):
        raise ModelError(
            f"{place.name}: its decoder is {tuple(inner.W_dec.shape)}, not {(fit.n_features, config['d_in'])}"
        )
    bad = [name for name, weight in inner.named_parameters() if not weight.isfinite().all()]
    if bad:
        raise ModelError(f"{place.name}: {bad[0]} holds values that are not finite; the file is damaged")
    inner.turn_off_forward_pass_hook_z_reshaping()  # the handle shapes heads itself
    inner.eval().requires_grad_(requires_grad=False)
    return Sae(
        name=place.name, site=fit.site, n_features=fit.n_features, size=fit.size, architecture=fit.architecture,
        normalised=inner.cfg.normalize_activations in NORMALISED, trained_on=fit.trained_on, hash=_hash(inner), inner=inner,
    )  # fmt: skip


def _local_config(folder: Path) -> dict[str, Any]:
    loaders = need("sae_lens.loading.pretrained_sae_loaders")
    path = folder / CONFIG
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not read: {error}; give a folder that sae-lens wrote") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is no configuration of an autoencoder; give a folder that sae-lens wrote")
    try:
        return loaders.handle_config_defaulting(found)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: sae-lens does not know this configuration ({type(error).__name__}: {error})"
        ) from error


def _hub_config(place: SaePlace) -> dict[str, Any]:
    loaders = need("sae_lens.loading.pretrained_sae_loaders")
    try:
        return loaders.load_sae_config_from_huggingface(place.release, place.sae_id)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _unreachable(place, error) from error


def _weights(place: SaePlace, device: str) -> Any:
    from safetensors import SafetensorError

    autoencoder = need("sae_lens").SAE
    if place.folder is None:
        try:
            return autoencoder.from_pretrained(place.release, place.sae_id, device=device, dtype="float32")
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise _unreachable(place, error) from error
    try:
        return autoencoder.load_from_disk(place.folder, device=device, dtype="float32")
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise ModelError(f"{place.folder} does not load: {_first_line(error)}; save it with sae-lens again") from error


def _unreachable(place: SaePlace, error: Exception) -> ModelError:
    return ModelError(
        f"cannot get {place.name}: the hub is unreachable or has no such autoencoder ({_first_line(error)})\n"
        "download it where there is a network, and give the folder"
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _hash(inner: Any) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(inner.state_dict().items()):
        digest.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
