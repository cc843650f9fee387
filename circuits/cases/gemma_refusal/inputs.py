"""From arguments to a checked setting: model, pairs, groups, metric and folder, before the first forward pass."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import final

from circuits.case import Progress, layer_groups
from circuits.case.inputs import pairs_of, positions_line
from circuits.case.run import Run
from circuits.case.study import open_model
from circuits.cases.gemma_refusal.setting import Setting
from circuits.engine import baseline
from circuits.errors import UndefinedError
from circuits.frames import undefined
from circuits.measure.groups import thirds
from circuits.metrics import Metric, parse_metric
from circuits.model import Model
from circuits.prompts import InstructionSet, PairSet, TokenPairs, diverse_instructions


@final
@dataclass(frozen=True, eq=False)
class Inputs:
    """The pairs as given, unpaired instructions for the same model, and the run on disk."""

    pairs: PairSet
    instructions: InstructionSet
    run: Run

    @property
    def out(self) -> Path:
        """The folder of the run."""
        return self.run.folder


def setting(args: argparse.Namespace, progress: Progress) -> tuple[Setting, Inputs]:
    """Everything a chapter needs, and what it was made of.

    Raises CircuitError for input that cannot be used, UndefinedError where no pair has a gap to recover.
    """
    asked = layer_groups(args)
    pairs = pairs_of(args.pairs)
    model = open_model(args, progress)
    found = asked or thirds(model.shape.n_layers)
    groups = {name: model.check_layers(layers, f"group {name!r}") for name, layers in found.items()}
    tokens = pairs.tokenize(model, template=args.template, drop_misaligned=args.drop_misaligned)
    metric = parse_metric(model, args.metric or ("diff" if _has_answers(pairs) else "refusal:I"))
    metric.bind(tokens)
    instructions = _instructions(args, model)
    instructions.tokenize(model, template=args.template)  # what is wrong with them is said before anything is run
    run = Run(args, progress, case="gemma_refusal", model=model, tokens=tokens, metric=metric)
    progress.say("pairs", positions_line(tokens, pairs))
    progress.say("metric", f"{metric.name}  {_gap_line(model, tokens, metric)}")
    return Setting(
        model=model, tokens=tokens, metric=metric, groups=groups, threshold=args.threshold, max_kl=args.max_kl,
        max_new_tokens=args.max_new_tokens, seed=args.seed, data=run.folder / "data", progress=progress,
    ), Inputs(pairs, instructions, run)  # fmt: skip


def _instructions(args: argparse.Namespace, model: Model) -> InstructionSet:
    """Unpaired instructions: a file's, or the bundled ones. A bundled model knows only those of its own grammar."""
    if args.diverse is not None:
        return InstructionSet.from_file(args.diverse)
    every = diverse_instructions()
    return every.of_source("grammar") if model.origin == "bundled" else every


def _has_answers(pairs: PairSet) -> bool:
    return all(pair.answer is not None and pair.wrong is not None for pair in pairs)


def _gap_line(model: Model, tokens: TokenPairs, metric: Metric) -> str:
    """The two baselines, and which pairs have no gap: they have no fraction, and are left out of every mean of one.

    Raises UndefinedError where no pair has a gap.
    """
    clean, corrupt = (side.double().numpy() for side in baseline(model, tokens, metric))
    same = undefined(corrupt, clean).nonzero()[0].tolist()
    line = f"clean {clean.mean():.2f}  corrupt {corrupt.mean():.2f}"
    if not same:
        return line
    shown = "\n".join(
        f"  pair {i}   clean {clean[i]:.6g}   corrupt {corrupt[i]:.6g}   {tokens.pairs[i].clean}" for i in same[:10]
    )
    if len(same) < tokens.n_pairs:
        return f"{line}\n  equal on both prompts of {len(same)} of {tokens.n_pairs} pairs, left out of every fraction:\n{shown}"
    raise UndefinedError(
        f"the metric {metric.name} is equal on both prompts of all {tokens.n_pairs} pairs\n{shown}\n"
        "nothing can be recovered: choose another metric, or other pairs"
    )
