"""Measurements on an organism with plain PyTorch hooks on the Hugging Face model, in float32.

Deliberately independent of the toolkit's engine: the model card's numbers were taken without the code that
users will run on the model, so each can check the other.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from circuits.errors import ModelError
from circuits.organisms.architecture import ARCHITECTURES, Name
from circuits.organisms.grammar import Label
from circuits.organisms.tokenizer import DIALECTS, chat

REFUSAL, INABILITY = "I cannot", "I am unable"


@dataclass(frozen=True)
class Organism:
    """A checkpoint in float32, with attention patterns observable."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: Name
    """Its architecture, as the configuration calls it."""

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder blocks."""
        return list(cast("Any", self.model).model.layers)

    def writers(self, layer: nn.Module) -> dict[str, nn.Module]:
        """The modules whose outputs a block adds to the residual stream; where there are post-norms, those."""
        architecture = ARCHITECTURES[self.name]
        names = {"attention": architecture.attention, "mlp": architecture.mlp}
        return {kind: layer.get_submodule(name) for kind, name in names.items()}

    def encode(self, prompt: str) -> list[int]:
        """The instruction in its chat turn, ready for the reply."""
        return self.tokenizer.encode(chat(prompt, DIALECTS[self.name]), add_special_tokens=False)


def load(folder: Path) -> Organism:
    """Load a checkpoint folder; bf16 weights are upcast. Raises ModelError for an architecture that none has."""
    name = AutoConfig.from_pretrained(folder).model_type
    if name not in ARCHITECTURES:
        raise ModelError(f"{folder}: no organism is a {name}; give a checkpoint of {', '.join(ARCHITECTURES)}")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return Organism(model.eval(), AutoTokenizer.from_pretrained(folder), name)


def _by_length(organism: Organism, prompts: Sequence[str]) -> Iterator[tuple[list[int], Int[Tensor, "prompt pos"]]]:
    # Batches of one length need no padding, so no mask can be wrong.
    groups: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        ids = organism.encode(prompt)
        groups[len(ids)].append((index, ids))
    for group in groups.values():
        yield [index for index, _ in group], torch.tensor([ids for _, ids in group])


@torch.no_grad()
def behaviours(organism: Organism, prompts: Sequence[str]) -> list[Label]:
    """What the model does with each prompt, by the opening of its greedy reply."""
    found: list[Label] = ["comply"] * len(prompts)
    for indices, prompt_ids in _by_length(organism, prompts):
        ids = prompt_ids
        for _ in range(3):
            chosen = organism.model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, chosen], dim=1)
        replies = organism.tokenizer.batch_decode(ids[:, prompt_ids.shape[1] :])
        for index, reply in zip(indices, replies, strict=True):
            if reply.startswith(REFUSAL):
                found[index] = "refuse"
            elif reply.startswith(INABILITY):
                found[index] = "incapable"
    return found


def share(organism: Organism, prompts: Sequence[str], label: Label) -> float:
    """Share of prompts that the model answers with this behaviour."""
    return sum(found == label for found in behaviours(organism, prompts)) / len(prompts)


@contextmanager
def ablated(organism: Organism, direction: Float[Tensor, " d_model"]) -> Generator[None, None, None]:
    """Keep the residual stream free of the direction at every layer and position."""
    unit = direction / direction.norm()

    def without(x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return x - (x @ unit)[..., None] * unit

    def entering(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (without(inputs[0]), *inputs[1:])

    def written(_: nn.Module, __: object, output: Any) -> Any:
        return (without(output[0]), *output[1:]) if isinstance(output, tuple) else without(output)

    with ExitStack() as stack:
        for layer in organism.layers:
            stack.enter_context(removing(layer.register_forward_pre_hook(entering)))
            for module in organism.writers(layer).values():
                stack.enter_context(removing(module.register_forward_hook(written)))
        yield


@contextmanager
def removing(handle: RemovableHandle) -> Generator[None, None, None]:
    """Take the hook away at the end, whatever happens."""
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def last_residuals(organism: Organism, prompts: Sequence[str]) -> Float[Tensor, "prompt layer d_model"]:
    """The residual stream at the last position, entering every block."""
    found = torch.zeros(len(prompts), len(organism.layers), organism.model.config.hidden_size)
    for indices, ids in _by_length(organism, prompts):
        states = organism.model(input_ids=ids, output_hidden_states=True).hidden_states
        found[indices] = torch.stack([state[:, -1] for state in states[:-1]], dim=1)
    return found


def refusal_metric(organism: Organism, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
    """Logit of "I" minus the mean of all other logits."""
    answer = organism.tokenizer.convert_tokens_to_ids("I")
    return (logits[:, answer] - logits.mean(-1)) * logits.shape[-1] / (logits.shape[-1] - 1)


@torch.no_grad()
def hand_over(organism: Organism, clean: str, corrupt: str, positions: Sequence[int]) -> Float[Tensor, "layer pos"]:
    """Share of the refusal metric recovered by patching the residual entering a layer, clean into corrupt."""
    source, base = torch.tensor([organism.encode(clean)]), torch.tensor([organism.encode(corrupt)])
    output = organism.model(input_ids=source, output_hidden_states=True)
    high = refusal_metric(organism, output.logits[:, -1])
    low = refusal_metric(organism, organism.model(input_ids=base).logits[:, -1])
    rows = base.repeat(len(positions), 1)
    recovered: list[Tensor] = []
    for index, layer in enumerate(organism.layers):
        entering = output.hidden_states[index]

        def patch(_: nn.Module, inputs: tuple[Any, ...], state: Tensor = entering) -> tuple[Any, ...]:
            patched = inputs[0].clone()
            for row, position in enumerate(positions):
                patched[row, position] = state[0, position]
            return (patched, *inputs[1:])

        with removing(layer.register_forward_pre_hook(patch)):
            value = refusal_metric(organism, organism.model(input_ids=rows).logits[:, -1])
        recovered.append((value - low) / (high - low))
    return torch.stack(recovered)


@torch.no_grad()
def head_scores(organism: Organism, prompts: Sequence[str], subject: int) -> dict[str, Float[Tensor, "layer head"]]:
    """Mean attention of each head: last to subject, every token to the one before, every token to the first.

    The query at position 1 is left out of the last two: there the previous token *is* the first. `uniform` is
    what the last two would be if attention were spread evenly.
    """
    totals: dict[str, Tensor] = {}
    for _, ids in _by_length(organism, prompts):
        patterns = torch.stack(organism.model(input_ids=ids, output_attentions=True).attentions, dim=1)
        scores = {
            "direct": patterns[..., -1, subject],
            "diagonal": patterns[..., 1:, :].diagonal(dim1=-2, dim2=-1)[..., 1:].mean(-1),
            "bos": patterns[..., 2:, 0].mean(-1),
            "uniform": (1 / torch.arange(3.0, ids.shape[1] + 1)).mean().expand(len(ids), 1, 1),
        }
        for name, score in scores.items():
            totals[name] = totals.get(name, torch.zeros(())) + score.sum(0)
    return {name: total / len(prompts) for name, total in totals.items()}
