"""From what the user typed to where an autoencoder is: a bundled name, a folder, or a release of the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from circuits.errors import ModelError
from circuits.model.resolve import bundled_models
from circuits.sae.library import need

CONFIG: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"
_PICKLED: Final = (".pt", ".pth", ".bin", ".pkl")
SAFE_LOADERS: Final = ("sae_lens", "gemma_2", "gemma_3", "llama_scope", "llama_scope_r1_distill", "sparsify")
"""sae-lens' loaders that read arrays alone: safetensors, and for Gemma Scope numpy archives. The others unpickle."""


@final
@dataclass(frozen=True)
class SaePlace:
    """Where an autoencoder comes from: a folder, or a release of the hub and an id in it."""

    name: str
    folder: Path | None = None
    release: str = ""
    sae_id: str = ""


def bundled_saes() -> dict[str, dict[str, Path]]:
    """Bundled model -> id -> folder of every autoencoder that comes with it."""
    found = {
        name: {config.parent.name: config.parent for config in sorted((folder / "sae").glob(f"*/{CONFIG}"))}
        for name, folder in bundled_models().items()
    }
    return {name: saes for name, saes in found.items() if saes}


def resolve_sae(where: str, sae_id: str | None) -> SaePlace:
    """Find an autoencoder. Raises ModelError naming what is known, what a folder lacks, or which id is missing."""
    bundled = bundled_saes()
    if where in bundled:
        return _bundled(where, sae_id, bundled[where])
    try:
        folder = Path(where).expanduser()
        there = folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name longer than any file's, the home of nobody
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"no autoencoder called {where[:80]!r}: {reason}; give a folder, a release or a bundled name"
        ) from error
    if there:
        if sae_id and (".." in Path(sae_id).parts or Path(sae_id).is_absolute() or len(sae_id) > 200):
            raise ModelError(f"{sae_id[:80]!r} is no folder inside {where}; there are {_inside(folder)}")
        inside = folder / sae_id if sae_id else folder
        _check_folder(inside)
        return SaePlace(inside.resolve().name, folder=inside.resolve())
    if folder.exists():
        raise ModelError(f"{where} is a file; give the folder with {CONFIG} and {WEIGHTS}")
    return _hub(where, sae_id, bundled)


def _bundled(where: str, sae_id: str | None, saes: dict[str, Path]) -> SaePlace:
    if sae_id is None and len(saes) > 1:
        raise ModelError(f"{where} comes with several autoencoders; give sae_id=, one of {', '.join(saes)}")
    chosen = next(iter(saes)) if sae_id is None else sae_id
    if chosen not in saes:
        raise ModelError(f"{where} has no autoencoder {chosen!r}; there are {', '.join(saes)}")
    return SaePlace(f"{where}/{chosen}", folder=saes[chosen])


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"{folder.parent} has no autoencoder {folder.name!r}; there are {_inside(folder.parent)}")
    has = {file.name for file in folder.iterdir()}
    if CONFIG not in has:
        raise ModelError(
            f"{folder}: {CONFIG} is missing; give a folder that sae-lens wrote (inside it: {_inside(folder)})"
        )
    if WEIGHTS not in has:
        pickled = sorted(name for name in has if name.endswith(_PICKLED))
        said = f" ({pickled[0]} is a pickle and is not read)" if pickled else ""
        raise ModelError(f"{folder}: {WEIGHTS} is missing{said}; save the autoencoder with sae-lens' save_model")


def _inside(folder: Path) -> str:
    return ", ".join(sorted(f.name for f in folder.iterdir() if f.is_dir())) or "no folders"


def _hub(where: str, sae_id: str | None, bundled: dict[str, Any]) -> SaePlace:
    known: dict[str, Any] = need("sae_lens.loading.pretrained_saes_directory").get_pretrained_saes_directory()
    is_repository = where.count("/") == 1 and not where.startswith((".", "/", "~")) and all(where.split("/"))
    if where not in known and not is_repository:
        raise ModelError(
            f"no autoencoder called {where!r}: not bundled ({', '.join(bundled) or 'none is'}), no folder here, no release "
            "that sae-lens knows, no repository of the hub (owner/name)"
        )
    ids = list(known[where].saes_map) if where in known else []
    if sae_id is None or (ids and sae_id not in ids):
        some = f": {', '.join(ids[:5])}{', …' if len(ids) > 5 else ''}" if ids else " (the folder in the repository)"
        raise ModelError(
            f"{where} needs sae_id=, one of its autoencoders{some}" + (f"; {sae_id!r} is none" if sae_id else "")
        )
    loader = (known[where].conversion_func if where in known else None) or "sae_lens"
    if loader not in SAFE_LOADERS:
        raise ModelError(
            f"{where}: its files are pickles, which can run code, or of a kind not known here ({loader}); they are not read\n"
            "load it with sae-lens yourself, save_model() it to a folder, and give that folder"
        )
    return SaePlace(f"{where}/{sae_id}", release=where, sae_id=sae_id)
