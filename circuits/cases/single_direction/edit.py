"""The direction taken out of the weights: equal to the run-time edit, kept as a file, and what it costs."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from jaxtyping import Float
from torch import Tensor

from circuits.case.condition import Rows, pick
from circuits.case.study import Study
from circuits.case.wording import number
from circuits.edits import load_edits, orthogonalised, save_edits
from circuits.engine import generate
from circuits.engine.logits import logits_under
from circuits.errors import ModelError
from circuits.frames import records
from circuits.harness import evaluate_tasks
from circuits.interventions import Cell, ablate_everywhere
from circuits.linalg import random_directions
from circuits.measure.capability import CapabilityCost, capability_cost
from circuits.measure.steering import Dose
from circuits.model import Model
from circuits.prompts import TokenPairs
from circuits.prompts.instruction_tokens import InstructionTokens

SAME = 1e-4
"""Largest difference of any logit that the same edit in other arithmetic may make."""
DRAWS = 5


def weights(
    s: Study, args: argparse.Namespace, prompts: InstructionTokens, direction: Float[Tensor, " d_model"], best: Dose
) -> None:
    """Orthogonalised weights against the run-time edit, the file, and the cost of both on harmless prompts."""
    model, alpha = s.model, 1.0 if best.coefficient is None else best.coefficient
    tokens, cell = prompts.beside_themselves(), best.cell
    folder = save_edits(
        s.out / "edit", cell, model=model, note=f"{best.name}; found on harmful and harmless instructions"
    )
    stored = load_edits(folder, model)
    try:
        edited = orthogonalised(model, direction, alpha=alpha)
    except ModelError as error:
        s.tell(
            "weights", "The edit in the weights", f"Not possible in this architecture: {str(error).splitlines()[0]}.", {}, None,
            read="The edit is kept as a file and applied at run time.", against="",
        )  # fmt: skip
    else:
        off = _largest_difference(model, edited, tokens, stored.cell)
        said = (
            generate(m, tokens, c, max_new_tokens=args.max_new_tokens) for m, c in ((model, stored.cell), (edited, ()))
        )
        same = sum(a == b for a, b in zip(*said, strict=True))
        s.tell(
            "weights", "The edit in the weights, and as a file",
            f"Orthogonalised weights give the run-time edit's logits within {number(off)} at every position, and the same "
            f"{same} of {tokens.n_pairs} completions; {edited.title}.", {}, None,
            read=f"Every matrix that writes to the residual stream, α {alpha:g}. The file holds a direction and operations, "
            f"never weights: circuits.load({args.model!r}, edits=…) applies it in memory.",
            against=f"A difference above {SAME:g}.", notes=(f"Kept in {folder.name}/ beside this page.",),
        )  # fmt: skip
        if args.tasks:
            _tasks(s, args, {"unedited": model, "edited": edited})
    cost = s.measure("cost", lambda: _cost(model, prompts, cell, alpha, args))
    row = records(cost.to_summary())[0]
    s.tell(
        "cost", "What the edit costs on harmless prompts",
        f"KL from the unedited model {number(row['kl'])} [{number(row['kl_low'])}, {number(row['kl_high'])}] nats per token "
        f"(random directions {number(row['null_kl'])}), perplexity of the unedited "
        f"continuations {number(row['perplexity_ratio'])} times what it was.", {"cost": cost.figure()}, cost.to_summary(),
        read="Over the instruction and the unedited continuation of harmless prompts.",
        against="A cost far above that of random directions.",
    )  # fmt: skip
    s.rule("the edit costs little on harmless prompts", "cost", [
        pick(
            Rows(cost.to_frame().rename(columns={"prompt": "pair"})), "KL per token (nats)", "below", 0.1, value="kl",
            cell="edit",
        )
    ])  # fmt: skip


def _cost(
    model: Model, prompts: InstructionTokens, cell: Cell, alpha: float, args: argparse.Namespace
) -> CapabilityCost:
    n = range(model.shape.n_layers)
    null = [ablate_everywhere(v, n, alpha=alpha) for v in random_directions(DRAWS, model.shape.d_model, seed=args.seed)]
    return capability_cost(model, prompts, {"edit": cell}, null={"edit": null}, max_new_tokens=args.max_new_tokens)


def _largest_difference(model: Model, edited: Model, tokens: TokenPairs, cell: Cell) -> float:
    at_run_time, in_weights = logits_under(model, tokens, cell), logits_under(edited, tokens)
    return float((at_run_time - in_weights)[tokens.mask.to(model.device)].abs().max())


def _tasks(s: Study, args: argparse.Namespace, models: dict[str, Model]) -> None:
    if find_spec("lm_eval") is None:
        s.tell(
            "tasks", "Tasks", "Not measured: lm-eval is not installed.", {}, None,
            read="pip install 'circuit-patching[lm-eval]'", against="",
        )  # fmt: skip
        return
    table = s.measure("tasks", lambda: evaluate_tasks(models, args.tasks, limit=args.limit))
    lines = [f"{r['task']} {r['metric']} {number(r['value'])} ({r['model']})" for r in records(table)]
    s.tell(
        "tasks", "Tasks, unedited and edited in one table", "; ".join(lines) + ".", {}, table,
        read="lm-eval on the model objects themselves; `change` is per document from the unedited model, with its interval.",
        against="Accuracy that falls with the edit.", notes=("The bundled tasks ask what the bundled models were taught.",),
    )  # fmt: skip
