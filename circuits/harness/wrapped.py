"""A loaded model as lm-eval's language model: the same module and tokenizer, left exactly as they were."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from io import StringIO
from typing import Any, Final

import numpy as np
import torch

from circuits.errors import CircuitError
from circuits.model import Model

_LOUD: Final = "lm_eval"
"""The logger whose notes on every choice would drown a table."""


def need(module: str) -> Any:
    """A module of lm-eval. Raises CircuitError naming the extra where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise CircuitError(
            f"tasks of lm-eval need the package lm-eval ({error})\npip install 'circuit-patching[lm-eval]'"
        ) from error


@contextmanager
def apart() -> Generator[None]:
    """In the context lm-eval raises, but prints nothing; its draws leave everybody else's random numbers as they were."""
    logger = logging.getLogger(_LOUD)
    level, drawn, drawn_by_numpy = logger.level, random.getstate(), np.random.get_state()  # noqa: NPY002  the state it uses
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(), redirect_stderr(StringIO()):  # bars that cannot be turned off
            yield
    finally:
        logger.setLevel(level)
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)  # noqa: NPY002  the same


def wrapped(model: Model, *, batch_size: int) -> Any:
    """The model's own `hf` as an HFLM; log-likelihoods are fp32 sums.

    HFLM ties a model's weights when it takes it. Of a model whose edit has untied them that would undo the edit, or spread
    it, so tying does nothing meanwhile. The tokenizer is a copy, because HFLM gives it a padding token.
    """
    hf, hflm = model.hf, need("lm_eval.models.huggingface").HFLM
    hf.tie_weights = _as_it_is
    try:
        return hflm(
            pretrained=hf, tokenizer=copy.deepcopy(model.tokenizer), backend="causal", batch_size=batch_size,
            softmax_dtype="float32",
        )  # fmt: skip
    finally:
        del hf.tie_weights


def _as_it_is(*_: Any, **__: Any) -> None:
    """Stands in for `tie_weights`."""
