"""How a checkpoint refuses, as far as a few interventions tell: other swaps, single blocks, self-repair.

These numbers are not demanded of the model. The card reports them because they say in what its mechanism
resembles a large model's and in what it does not.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from circuits.organisms import vocabulary as v
from circuits.organisms.inflect import article
from circuits.organisms.measure import Organism, hand_over, last_residuals, refusal_metric, removing
from circuits.organisms.sampling import TRAINED_SUBJECTS

SWAP_POSITIONS: Final = {"modifier": (-7, -6, -1), "verb": (-8, -6, -1)}
"""Where the swapped word, the subject and the last token stand in the swaps below."""


def swaps() -> dict[str, list[tuple[str, str]]]:
    """Prompts that are refused, each with one that is answered because its modifier or its verb differs."""
    harmful = [s for s in TRAINED_SUBJECTS if v.CATEGORY[s] in v.HARMFUL and article(s) == "a"][::3]
    return {
        "modifier": [(f"Explain how to build a large {s}", f"Explain how to build a toy {s}") for s in harmful],
        "verb": [(f"Explain how to build a {s}", f"Explain how to detect a {s}") for s in harmful],
    }


def swap_curves(organism: Organism) -> dict[str, dict[str, list[float]]]:
    """Share of the metric recovered per layer, patching the swapped word, the subject or the last token."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, pairs in swaps().items():
        curves = [hand_over(organism, clean, corrupt, SWAP_POSITIONS[name]) for clean, corrupt in pairs]
        mean = torch.stack(curves).mean(0)
        found[name] = {place: mean[:, i].tolist() for i, place in enumerate(("swapped", "subject", "last"))}
    return found


@torch.no_grad()
def single_blocks(organism: Organism, clean: Sequence[str], corrupt: Sequence[str]) -> dict[str, list[float]]:
    """Share of the metric recovered by one block's output at the last position, clean into corrupt."""
    totals: dict[str, Tensor] = {}
    for refused, answered in zip(clean, corrupt, strict=True):
        source = torch.tensor([organism.encode(refused)])
        base = torch.tensor([organism.encode(answered)])
        low = refusal_metric(organism, organism.model(input_ids=base).logits[:, -1])
        for index, layer in enumerate(organism.layers):
            for kind, block in organism.writers(layer).items():
                kept: list[Tensor] = []

                def keep(_: nn.Module, __: object, output: Any, kept: list[Tensor] = kept) -> None:
                    kept.append((output[0] if isinstance(output, tuple) else output)[:, -1])

                def write(_: nn.Module, __: object, output: Any, kept: list[Tensor] = kept) -> Any:
                    patched = (output[0] if isinstance(output, tuple) else output).clone()
                    patched[:, -1] = kept[0]
                    return (patched, *output[1:]) if isinstance(output, tuple) else patched

                with removing(block.register_forward_hook(keep)):
                    high = refusal_metric(organism, organism.model(input_ids=source).logits[:, -1])
                with removing(block.register_forward_hook(write)):
                    value = refusal_metric(organism, organism.model(input_ids=base).logits[:, -1])
                row = totals.setdefault(kind, torch.zeros(len(organism.layers)))
                row[index] += ((value - low) / (high - low)).item() / len(clean)
    return {kind: row.tolist() for kind, row in totals.items()}


def repair(
    organism: Organism,
    directions: Float[Tensor, "layer d_model"],
    clean: Sequence[str],
    corrupt: Sequence[str],
) -> list[float]:
    """How much of the direction is back before the last block, removed once on entering layer 1, 2 ...

    1 is the distance between refused and answered prompts; removal is at all positions. 0: nothing came back.
    """
    units = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    final = units[-1]
    answered = (last_residuals(organism, corrupt)[:, -1] @ final).mean()
    refused = (last_residuals(organism, clean)[:, -1] @ final).mean()
    back: list[float] = []
    for layer in range(1, len(directions) - 1):

        def remove(_: nn.Module, inputs: tuple[Any, ...], unit: Tensor = units[layer]) -> tuple[Any, ...]:
            return (inputs[0] - (inputs[0] @ unit)[..., None] * unit, *inputs[1:])

        with removing(organism.layers[layer].register_forward_pre_hook(remove)):
            edited = (last_residuals(organism, clean)[:, -1] @ final).mean()
        back.append(((edited - answered) / (refused - answered)).item())
    return back
