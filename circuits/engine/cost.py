"""What a measurement costs, in forward passes of one prompt.

    with forward_passes(model, tokens) as cost:
        patch_residual(model, tokens, metric)
    cost.passes             # blocks × tokens run, over those of one prompt

Parts of passes add up: a sweep resumes a kept run at the layer and column of each edit. Unembeddings are not counted, nor
calls of a block that stop at its keys and values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

from circuits.model import Model
from circuits.model.hooks import counting
from circuits.prompts.align import TokenPairs


@final
@dataclass
class Cost:
    """Tokens × blocks run so far, and how many of them one prompt takes."""

    of_one: int
    seen: Counter[str] = field(default_factory=Counter[str])

    @property
    def passes(self) -> float:
        """Forward passes of one prompt, padding included."""
        return self.seen["token_layers"] / self.of_one


@contextmanager
def forward_passes(model: Model, tokens: TokenPairs) -> Generator[Cost]:
    """Count everything that runs through the model's blocks, whoever runs it, for the length of the context."""
    with counting(model.parts) as seen:
        yield Cost(model.shape.n_layers * tokens.n_pos, seen)
