"""What several cases are given: pairs, instructions, a metric by token strings, and how they are told."""

from __future__ import annotations

from collections import Counter

from circuits.errors import CircuitError, TokenError
from circuits.metrics import LogitDifference, Metric, parse_metric
from circuits.model import Model
from circuits.prompts import (
    InstructionSet,
    PairSet,
    TokenPairs,
    capability_instructions,
    diverse_instructions,
    toy_refusal_pairs,
)
from circuits.prompts.instruction_tokens import InstructionTokens


def pairs_of(path: str | None) -> PairSet:
    """Pairs from a file, by its ending, or the bundled ones."""
    if path is None:
        return toy_refusal_pairs()
    return PairSet.from_json(path) if path.lower().endswith(".json") else PairSet.from_csv(path)


def instructions_of(path: str | None, model: Model) -> InstructionSet:
    """Unpaired instructions of a file, or the bundled ones (harmful, harmless, incapable).

    A bundled model knows the words of its own grammar alone, and is given no others.
    """
    if path is not None:
        return InstructionSet.from_file(path)
    every = diverse_instructions() + capability_instructions()
    return every.of_source("grammar") if model.origin == "bundled" else every


def halves(every: InstructionSet, *, least: int = 6) -> tuple[InstructionSet, InstructionSet]:
    """Every other prompt of each label: one half to find with, one to test on.

    Raises CircuitError for a label whose halves would hold fewer than `least`, which no direction is made of.
    """
    counts = Counter(instruction.label for instruction in every)
    few = [f"{n} {label}" for label, n in counts.items() if n < 2 * least]
    if few:
        raise CircuitError(
            f"{every.name}: {' and '.join(few)} instructions; half of them find directions, the other half tests them\n"
            f"give at least {2 * least} of each label"
        )
    places: dict[str, int] = {}
    halves: tuple[list[int], list[int]] = ([], [])
    for i, instruction in enumerate(every):
        turn = places[instruction.label] = places.get(instruction.label, -1) + 1
        halves[turn % 2].append(i)
    first, second = (InstructionSet(tuple(every[i] for i in half), every.name) for half in halves)
    return first, second


def single_token_difference(model: Model, given: str | None, default: tuple[str, str], *, bundled: str) -> Metric:
    """The metric asked for, or logit[default 0] − logit[default 1] where both are single tokens.

    A bundled model's replies have words of their own: it is asked `bundled`. Raises TokenError naming what is not one
    token and how to choose.
    """
    if given is not None or model.origin == "bundled":
        return parse_metric(model, given or bundled)
    try:
        return LogitDifference(model, *default)
    except TokenError as error:
        raise TokenError(
            f"the default metric compares {default[0]!r} with {default[1]!r}: {error}\n"
            "look at how replies begin (ct.generate), and choose the first token of a refusal and that of an answer: "
            "--metric diff:ANSWER,WRONG"
        ) from error


def positions_line(tokens: TokenPairs, pairs: PairSet) -> str:
    """How many pairs, of what, and where their subjects stand."""
    subjects = sorted({int(s) - tokens.n_pos for s in tokens.subject})
    where = f"subject at {subjects[0]}" if len(subjects) == 1 else f"subject at {subjects[0]} … {subjects[-1]}"
    dropped = f", {len(tokens.dropped)} dropped" if tokens.dropped else ""
    return f"{tokens.n_pairs} single-token swaps of {pairs.name}{dropped}, {where}, last at −1".replace(" -", " −")


def require_partners(tokens: TokenPairs, other: InstructionTokens, *, least: int = 6) -> None:
    """Raise CircuitError where pairs cannot be compared with partners from `other`: too few of either."""
    known = {pair.corrupt for pair in tokens.pairs}
    free = sum(i.label == "harmless" and i.text not in known for i in other.instructions)
    if tokens.n_pairs < least:
        raise CircuitError(f"{tokens.pairs.name}: {tokens.n_pairs} pairs; give at least {least}")
    if free < tokens.n_pairs:
        raise CircuitError(
            f"{tokens.pairs.name}: {tokens.n_pairs} pairs, and {free} other harmless instructions to test with\n"
            f"give at least {2 * tokens.n_pairs} harmless instructions that are no pair's partner (half of them test), or "
            "fewer pairs"
        )
