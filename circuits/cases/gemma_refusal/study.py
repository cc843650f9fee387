"""The study: what is measured, in the order of the argument, and the report made of it.

Results are written to the output folder as soon as they exist; a step that fails loses nothing before it.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.case import Progress, layer_groups, save, writable
from circuits.cases.gemma_refusal import argument, rules
from circuits.cases.gemma_refusal.graph import build, node_frame
from circuits.draw import network
from circuits.engine import baseline
from circuits.engine.sweep import Direction
from circuits.errors import OutputError, UndefinedError
from circuits.frames import summary, undefined
from circuits.graph import export
from circuits.measure.attention import classify_heads
from circuits.measure.behaviour import SETTINGS, Behaviour, behaviour
from circuits.measure.blocks import patch_blocks
from circuits.measure.directions import choose_direction
from circuits.measure.groups import patch_groups, thirds
from circuits.measure.head_sets import patch_head_sets
from circuits.measure.heads import patch_heads
from circuits.measure.residual import patch_residual
from circuits.measure.writes import components
from circuits.metrics import Metric, RefusalMetric, parse_metric
from circuits.model import Model, load
from circuits.prompts import PairSet, TokenPairs, toy_refusal_pairs
from circuits.report import Completion, Report, verdict_table, write
from circuits.result import versions
from circuits.tables import SIDES

DIRECTIONS: tuple[Direction, Direction] = ("denoise", "noise")
SHOWN = ("residual-denoise", "groups-noise", "heads-noise")
"""Figures that README shows."""
NOT_GEMMA = "A small model trained from scratch on a synthetic grammar: it has Gemma's architecture and is not Gemma."


def study(args: argparse.Namespace, progress: Progress) -> Path:
    """Run everything and return the report's index.html. Raises CircuitError for input that cannot be used."""
    began = time.perf_counter()
    asked = layer_groups(args)
    pairs = _pairs(args.pairs)
    model = load(args.model, dtype=args.dtype, device=args.device)
    groups = asked or thirds(model.shape.n_layers)
    for name, layers in groups.items():
        model.check_layers(layers, f"group {name!r}")
    progress.say("model", model.title)
    tokens = pairs.tokenize(model, template=args.template, drop_misaligned=args.drop_misaligned)
    metric = parse_metric(model, args.metric or ("diff" if _has_answers(pairs) else "refusal:I"))
    metric.bind(tokens)
    out = _folder(args, model, tokens, metric, groups)
    progress.say("pairs", _positions_line(tokens, pairs))
    progress.say("metric", f"{metric.name}  {_gap_line(model, tokens, metric)}")

    progress.total = 9
    step = progress.step
    chosen = step(
        "direction", lambda: choose_direction(model, tokens, metric, max_kl=args.max_kl, seed=args.seed),
        lambda r: f"entering layer {r.layer}, position {rules.minus(str(r.position))}",
    )  # fmt: skip
    save(out / "data", {"direction": chosen})
    acts = step(
        "behaviour",
        lambda: behaviour(model, tokens, metric, chosen.direction, max_new_tokens=args.max_new_tokens, seed=args.seed),
        _rates_line,
    )
    written = step("components", lambda: components(model, tokens, chosen.held_out, seed=args.seed))
    save(out / "data", {"behaviour": acts, "components": written})
    resid = step("residual patching", lambda: _both(patch_residual, model, tokens, metric), _certificate_line)
    grouped = step("groups", lambda: _both(partial(patch_groups, groups=groups), model, tokens, metric))
    blocks = step("single blocks", lambda: _both(patch_blocks, model, tokens, metric), _certificate_line)
    classes = step("attention", lambda: classify_heads(model, tokens, threshold=args.threshold), _classes_line)
    heads = step("single heads", lambda: _both(patch_heads, model, tokens, metric), _certificate_line)
    sets = step(
        "head sets",
        lambda: _both(partial(patch_head_sets, sets=classes.sets(), seed=args.seed), model, tokens, metric),
        _certificate_line,
    )
    for name, both in {"residual": resid, "groups": grouped, "blocks": blocks, "heads": heads, "sets": sets}.items():
        save(out / "data", {f"{name}_{direction}": result for direction, result in both.items()})
    save(out / "data", {"attention": classes})

    noised_groups, noised_blocks, denoised_residual = (
        grouped["noise"].to_summary(),
        summary(blocks["noise"].to_frame(), ["kind", "layer", "pos"], "fraction"),
        summary(resid["denoise"].to_frame(), ["layer", "pos"], "fraction"),
    )
    noised_sets, denoised_sets = (sets[d].to_summary() for d in ("noise", "denoise"))
    named = grouped["noise"].groups
    verdicts = [
        rules.direction_removes(acts.to_summary()),
        rules.early_enrichment(noised_groups),
        rules.middle_handover(noised_groups, denoised_residual, named),
        rules.middle_writes(written.gap_frame(), named),
        rules.late_response(noised_groups),
        rules.no_single_block(noised_blocks),
        rules.direct_heads(noised_sets, denoised_sets),
        rules.diagonal_antagonism(denoised_sets),
    ]
    nodes = node_frame(blocks, heads, classes, written)
    graph = build(nodes, resid["noise"].provenance)
    for suffix in ("graphml", "json"):
        export(graph, out / f"circuit.{suffix}")
    sections = [
        argument.behaviour_section(acts, _agreement_line(acts)),
        argument.direction_section(chosen),
        *argument.component_sections(written),
        argument.residual_section(resid),
        argument.groups_section(grouped),
        argument.blocks_section(blocks),
        argument.attention_section(classes),
        argument.heads_section(heads),
        argument.head_sets_section(sets),
        argument.graph_section(nodes, _drawing(nodes, resid["noise"].provenance.caption)),
    ]
    sections = [replace(section, claim=rules.minus(section.claim)) for section in sections]
    if not isinstance(metric, RefusalMetric):  # the write-up's findings are about refusal and its metric
        sections = [replace(section, published="") for section in sections]
    report = Report(
        title=f"The refusal circuit in {model.name}" if args.pairs is None else f"The circuit behind {metric.name}",
        question="Which components carry the difference between the two prompts of each pair, and how?",
        model=model.title,
        model_note=NOT_GEMMA if model.origin == "bundled" else "",
        pairs=_positions_line(tokens, pairs),
        metric=metric.name,
        certificate=resid["denoise"].provenance.certificate,
        verdicts=verdicts,
        sections=sections,
        completions=_completions(acts),
        manifest=_manifest(args, model, tokens, progress, began),
        command=args.command,
    )
    index = write(report, out, images="never" if args.no_images else "auto")
    if args.figures:
        _copy_stills(out / "figures", Path(args.figures))
    progress.show("\n" + verdict_table(verdicts) + "\n")
    progress.say("graph", str(out / "circuit.graphml"))
    return index


def _both(measure: Any, model: Model, tokens: TokenPairs, metric: Metric) -> dict[Direction, Any]:
    return {direction: measure(model, tokens, metric, direction=direction) for direction in DIRECTIONS}


def _pairs(path: str | None) -> PairSet:
    if path is None:
        return toy_refusal_pairs()
    return PairSet.from_json(path) if path.lower().endswith(".json") else PairSet.from_csv(path)


def _has_answers(pairs: PairSet) -> bool:
    return all(pair.answer is not None and pair.wrong is not None for pair in pairs)


def _folder(args: argparse.Namespace, model: Model, tokens: TokenPairs, metric: Metric, groups: dict[str, Any]) -> Path:
    """Where the run goes: the same inputs give the same folder, other inputs another."""
    if args.out is not None:
        return writable(Path(args.out))
    inputs = (
        model.hash, args.dtype, tokens.hash, metric.name, {name: list(layers) for name, layers in groups.items()},
        args.threshold, args.max_kl, args.seed, args.max_new_tokens,
    )  # fmt: skip
    identity = hashlib.sha256(repr(inputs).encode()).hexdigest()[:8]
    return writable(Path("runs") / "gemma_refusal" / f"{model.name.replace('/', '--')}-{identity}")


def _gap_line(model: Model, tokens: TokenPairs, metric: Metric) -> str:
    """The two baselines. Raises UndefinedError naming pairs whose two runs agree: they have no fraction."""
    clean, corrupt = (side.double().numpy() for side in baseline(model, tokens, metric))
    same = undefined(corrupt, clean).nonzero()[0].tolist()
    if same:
        shown = "\n".join(
            f"  pair {i}   clean {clean[i]:.6g}   corrupt {corrupt[i]:.6g}   {tokens.pairs[i].clean}" for i in same[:10]
        )
        raise UndefinedError(
            f"the metric {metric.name} is equal on both prompts of {len(same)} of {tokens.n_pairs} pairs\n{shown}\n"
            "nothing can be recovered there: drop these pairs or choose another metric"
        )
    return f"clean {clean.mean():.2f}  corrupt {corrupt.mean():.2f}"


def _positions_line(tokens: TokenPairs, pairs: PairSet) -> str:
    subjects = sorted({int(s) - tokens.n_pos for s in tokens.subject})
    where = f"subject at {subjects[0]}" if len(subjects) == 1 else f"subject at {subjects[0]} … {subjects[-1]}"
    dropped = f", {len(tokens.dropped)} dropped" if tokens.dropped else ""
    return f"{tokens.n_pairs} single-token swaps of {pairs.name}{dropped}, {where}, last at −1".replace(" -", " −")


def _rates_line(result: Behaviour) -> str:
    base, ablated = (result.rate(s, "clean").estimate for s in ("baseline", "intervened"))
    return f"ablated: refuses {ablated:.0%} (was {base:.0%})"


def _certificate_line(both: dict[Direction, Any]) -> str:
    parts = both["denoise"].provenance.certificate.split("; ")
    return f"{parts[0]}, {parts[-1]}"  # the report has the rest


def _classes_line(classes: Any) -> str:
    counts = classes.to_summary()["klass"].value_counts()
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def _agreement_line(result: Behaviour) -> str:
    try:
        return f"AUROC {result.agreement()}"
    except UndefinedError:
        return "undefined, because all or none of these completions refuse"


def _completions(result: Behaviour) -> list[Completion]:
    return [
        Completion(prompt, side, setting, text, bool(result.refused[s, k, i]))
        for k, side in enumerate(SIDES)
        for i, prompt in enumerate(result.prompts[k])
        for s, setting in enumerate(SETTINGS)
        for text in [result.completions[s][k][i]]
    ]


def _drawing(nodes: pd.DataFrame, caption: str) -> Any:
    shown = nodes.assign(
        label=nodes["id"],
        column=nodes["id"].str.extract(r"^L(\d+)")[0].astype(int),
        row=nodes["id"].str.extract(r"\.([A-Z]+)")[0].map({"H": "heads", "ATTN": "attention", "MLP": "MLPs"}),
        effect=nodes["noise_last"].abs(),
    )
    shown["klass"] = shown["klass"].fillna(shown["row"])
    last = int(shown["column"].max()) + 1
    metric = {"id": "metric", "label": "metric", "column": last, "row": "attention", "effect": 1.0, "klass": "metric"}
    edges = pd.DataFrame({"source": nodes["id"], "target": "metric", "weight": nodes["noise_last"]})
    drawn = edges[edges["weight"].abs() >= 0.05]
    return network(
        pd.concat([shown, pd.DataFrame([metric])], ignore_index=True), drawn,
        title="Components and their effect on the metric (noised, last position)", caption=caption,
    )  # fmt: skip


def _manifest(
    args: argparse.Namespace, model: Model, tokens: TokenPairs, progress: Progress, began: float
) -> dict[str, str]:
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in progress.seconds.items())
    proved = ", ".join(f"{fact} {value:.1e}" for fact, value in model.facts.items())
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "model": f"{model.title}, hash {model.hash}, {args.dtype} on {model.device}",
        "proved on load": proved,
        "pairs": f"{tokens.n_pairs} ({tokens.hash})",
        "seed": str(args.seed),
        "seconds": f"{time.perf_counter() - began:.1f} before drawing: {took}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def _copy_stills(source: Path, target: Path) -> None:
    writable(target)
    missing = [name for name in SHOWN if not (source / f"{name}.png").is_file()]
    if missing:
        raise OutputError(f"no still image of {', '.join(missing)}: kaleido and a browser are needed (see the report)")
    for name in SHOWN:
        shutil.copy2(source / f"{name}.png", target / f"{name}.png")
