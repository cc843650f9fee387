"""sae-lens, imported when an autoencoder is asked for: everything else works without it."""

from __future__ import annotations

from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from circuits.errors import CircuitError


def installed() -> bool:
    """Whether autoencoders can be read here."""
    return find_spec("sae_lens") is not None


def need(module: str) -> Any:
    """A module of sae-lens. Raises CircuitError naming what to install where it is missing or does not load."""
    try:
        return import_module(module)
    except ImportError as error:
        raise CircuitError(
            f"sparse autoencoders need the package sae-lens ({error}); here is transformer-lens "
            f"{metadata.version('transformer-lens')}\n"
            "pip install 'sae-lens>=6' 'transformer-lens>=3.9,<4'   (sae-lens does not work with transformer-lens 4)"
        ) from error
