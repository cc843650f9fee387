"""From what the user typed to where the weights are: a bundled name, a local folder, or a hub id.

Nothing heavy is imported here, so that a wrong name or an incomplete folder is told within a moment.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from circuits.errors import ModelError

DEFAULT_MODEL = "refusal-gemma"
"""The bundled model: small, trained, Gemma architecture; not Gemma."""

FLAGSHIPS = (
    "google/gemma-2b-it",
    "google/gemma-2-2b-it",
    "google/gemma-2-9b-it",
    "Qwen/Qwen1.5-1.8B-Chat",
    "Qwen/Qwen2.5-7B-Instruct",
)
"""Hub ids suggested when a name is close to one of them."""

Origin = Literal["bundled", "folder", "hub"]


@final
@dataclass(frozen=True)
class Place:
    """Where a model comes from; `path` is what Hugging Face is given."""

    name: str
    origin: Origin
    path: str


def bundled_models() -> dict[str, Path]:
    """Name -> folder of every model that ships with the package."""
    root = Path(__file__).resolve().parent.parent / "organisms"
    return {f.parent.name.replace("_", "-"): f.parent for f in sorted(root.glob("*/config.json"))}


def resolve(name: str) -> Place:
    """Find a model by bundled name, folder or hub id.

    Raises ModelError: an empty or unknown name (with near matches), or a folder that lacks a file (naming it).
    """
    bundled = bundled_models()
    if not name.strip():
        raise ModelError(
            f"the model's name is empty; give a hub id, a folder, or a bundled name ({', '.join(bundled)})"
        )
    if name in bundled:
        return Place(name, "bundled", str(bundled[name]))
    try:
        folder = Path(name).expanduser()
        folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name longer than any file's, the home of nobody
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"no model called {name[:80]!r}: {reason}; give a hub id, a folder, or a bundled name ({', '.join(bundled)})"
        ) from error
    if folder.is_dir():
        _check_folder(folder)
        return Place(folder.resolve().name, "folder", str(folder.resolve()))
    if folder.exists():
        raise ModelError(f"{name} is a file; --model takes a folder in Hugging Face format, a hub id or a bundled name")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and all(name.split("/")):
        return Place(name, "hub", name)
    known = [*bundled, *FLAGSHIPS]
    tails = {k.rsplit("/", 1)[-1].lower(): k for k in known}
    near = [tails[t] for t in difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), tails, n=3, cutoff=0.4)]
    raise ModelError(
        f"no model called {name!r}: not a bundled name, not a folder here, not a hub id (owner/name)\n"
        + (f"  near matches: {', '.join(near)}\n" if near else "")
        + f"bundled: {', '.join(bundled) or 'none'}; or give a folder in Hugging Face format"
    )


def _check_folder(folder: Path) -> None:
    """Say which file of a checkpoint is missing before anything is read."""
    has = {f.name for f in folder.iterdir()}
    if "config.json" not in has:
        raise ModelError(f"{folder}: config.json is missing; a model folder is one written by save_pretrained")
    if not any(f.endswith(".safetensors") for f in has):
        pickled = [f for f in has if f.endswith((".bin", ".pt", ".pth"))]
        raise ModelError(
            f"{folder}: model.safetensors is missing"
            + (f" ({pickled[0]} is a pickle and is not read)" if pickled else "")
            + "; save the model with safe_serialization"
        )
    if not has & {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"}:
        raise ModelError(
            f"{folder}: tokenizer.json is missing; copy the tokenizer's files there or pass tokenizer= to load()"
        )
