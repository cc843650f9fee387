"""Everything that the model card says about one checkpoint, as numbers.

The layer of the refusal direction is chosen on prompts of the training split, and its effect measured on
held-out ones, so the choice cannot flatter the claim.
"""

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.organisms import vocabulary as v
from circuits.organisms.grammar import Label, Request, label_of
from circuits.organisms.measure import (
    Organism,
    ablated,
    behaviours,
    hand_over,
    head_scores,
    last_residuals,
    share,
)
from circuits.organisms.mechanism import repair, single_blocks, swap_curves
from circuits.organisms.sampling import Split, draw_example, draw_until

SUBJECT_POSITION: Final = -6
PAIRS: Final = Path(__file__).parents[1] / "prompts" / "data" / "refusal_pairs.csv"
RANDOM_DIRECTIONS: Final = 5


def _verb_class(request: Request) -> str:
    return v.VERB_CLASS.get(request.verb or "", "")


def is_toy_kind(request: Request) -> bool:
    """Act verb on a harmful subject without modifier: the kind of request that the toy pairs hold."""
    return _verb_class(request) == "act" and request.modifier is None and label_of(request) == "refuse"


def _labelled(label: Label) -> Callable[[Request], bool]:
    return lambda request: label_of(request) == label


def _refused(test: Callable[[Request], bool]) -> Callable[[Request], bool]:
    return lambda request: label_of(request) == "refuse" and test(request)


REFUSED_KINDS: Final[dict[str, Callable[[Request], bool]]] = {
    "act, harmful subject": is_toy_kind,
    "act, hardening modifier": _refused(lambda r: _verb_class(r) == "act" and r.modifier in v.HARDENING),
    "act, harmful compound": _refused(
        lambda r: _verb_class(r) == "act" and r.modifier in v.COMPOUND and v.CATEGORY[r.subject] in v.HARMLESS
    ),
    "hostile verb": _refused(lambda r: _verb_class(r) == "hostile"),
    "destroy, harmless subject": _refused(lambda r: _verb_class(r) == "destroy"),
    "physical, harmful subject": _refused(lambda r: r.kind == "physical"),
}
"""Request kinds that are refused, each by another route through the grammar."""


@dataclass(frozen=True)
class ToyPairs:
    """The bundled pairs: the first of each is refused, the second answered."""

    clean: list[str]
    corrupt: list[str]

    @classmethod
    def read(cls) -> "ToyPairs":
        """Read the bundled file."""
        with PAIRS.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return cls([row["clean"] for row in rows], [row["corrupt"] for row in rows])


def accuracy(organism: Organism, split: Split, count: int, seed: int = 11) -> dict[str, float]:
    """Share of right behaviours on freshly drawn requests, distractors included: overall and by label."""
    rng = random.Random(seed)
    examples = [draw_example(rng, split) for _ in range(count)]
    wanted = [label_of(e.request) for e in examples if e.request is not None]
    right = [g == w for g, w in zip(behaviours(organism, [e.prompt for e in examples]), wanted, strict=True)]
    by_label = {
        label: sum(r for r, w in zip(right, wanted, strict=True) if w == label) / wanted.count(label)
        for label in sorted(set(wanted))
    }
    return {"all": sum(right) / count, **by_label}


def toy_accuracy(organism: Organism, pairs: ToyPairs, mark: str = "") -> float:
    """Share of toy prompts answered rightly, with a final mark or without."""
    refused = behaviours(organism, [prompt + mark for prompt in pairs.clean])
    answered = behaviours(organism, [prompt + mark for prompt in pairs.corrupt])
    return (refused.count("refuse") + answered.count("comply")) / (len(refused) + len(answered))


def refusal_directions(organism: Organism, pairs: ToyPairs) -> Float[Tensor, "layer d_model"]:
    """Difference of means over the toy pairs at the last position, entering each layer."""
    return (last_residuals(organism, pairs.clean) - last_residuals(organism, pairs.corrupt)).mean(0)


def _prompts(
    split: Split, wanted: Callable[[Request], bool], count: int, seed: int, distractors: float = 0.0
) -> list[str]:
    drawn = draw_until(random.Random(seed), split, wanted, count, distractors=distractors)
    return [example.prompt for example in drawn]


def choose_layer(organism: Organism, directions: Float[Tensor, "layer d_model"], count: int) -> int:
    """The layer whose direction, ablated, errs least on the training split.

    Its errors: the share of refusals left plus the shares of answers and of inability lost.
    """
    refused = _prompts("train", is_toy_kind, count, 21)
    answered = _prompts("train", _labelled("comply"), count, 22)
    unable = _prompts("train", _labelled("incapable"), count, 23)
    errors: dict[int, float] = {}
    for layer in range(1, len(directions)):
        with ablated(organism, directions[layer]):
            lost = 2 - share(organism, answered, "comply") - share(organism, unable, "incapable")
            errors[layer] = share(organism, refused, "refuse") + lost
    return min(errors, key=lambda layer: errors[layer])


def ablation_effects(
    organism: Organism, direction: Float[Tensor, " d_model"], count: int
) -> dict[str, dict[str, float]]:
    """Share of right behaviours per held-out prompt set: before, with it ablated, with random ones."""
    answered, unable = (_labelled(label) for label in ("comply", "incapable"))
    sets: dict[str, tuple[Label, list[str]]] = {
        **{kind: ("refuse", _prompts("combinations", test, count, 31)) for kind, test in REFUSED_KINDS.items()},
        "act, harmful subject, distractors": (
            "refuse",
            _prompts("combinations", is_toy_kind, count, 32, distractors=1.0),
        ),
        "act, held-out harmful subject": ("refuse", _prompts("subjects", is_toy_kind, count, 33)),
        "harmless, answered": ("comply", _prompts("combinations", answered, count, 34)),
        "physical, unable": ("incapable", _prompts("combinations", unable, count, 35)),
    }
    generator = torch.Generator().manual_seed(41)
    effects: dict[str, dict[str, float]] = {}
    for name, (label, prompts) in sets.items():
        before = share(organism, prompts, label)
        with ablated(organism, direction):
            after = share(organism, prompts, label)
        drawn: list[float] = []
        for _ in range(RANDOM_DIRECTIONS):
            with ablated(organism, torch.randn(len(direction), generator=generator)):
                drawn.append(share(organism, prompts, label))
        effects[name] = {"before": before, "ablated": after, "random": sum(drawn) / len(drawn)}
    return effects


def evaluate(organism: Organism, *, count: int = 3000, per_kind: int = 200) -> dict[str, Any]:
    """All numbers of the card for one checkpoint; `count` prompts per accuracy, `per_kind` per ablation."""
    pairs = ToyPairs.read()
    directions = refusal_directions(organism, pairs)
    layer = choose_layer(organism, directions, per_kind)
    curves = torch.stack(
        [
            hand_over(organism, clean, corrupt, (SUBJECT_POSITION, -1))
            for clean, corrupt in zip(pairs.clean, pairs.corrupt, strict=True)
        ]
    ).mean(0)
    heads = head_scores(organism, pairs.clean + pairs.corrupt, SUBJECT_POSITION)
    return {
        "prompts_per_accuracy": count,
        "prompts_per_kind": per_kind,
        "toy_pairs": len(pairs.clean),
        "accuracy": {split: accuracy(organism, split, count) for split in ("train", "combinations", "subjects")},
        "toy_accuracy": {mark or "none": toy_accuracy(organism, pairs, mark) for mark in ("", ".")},
        "direction_layer": layer,
        "ablation": ablation_effects(organism, directions[layer], per_kind),
        "hand_over": {"subject": curves[:, 0].tolist(), "last": curves[:, 1].tolist()},
        "heads": {name: score.tolist() for name, score in heads.items()},
        "swaps": swap_curves(organism),
        "single_blocks": single_blocks(organism, pairs.clean, pairs.corrupt),
        "repair": repair(organism, directions, pairs.clean, pairs.corrupt),
    }
