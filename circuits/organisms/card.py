"""Measure checkpoints and write the model card: `python -m circuits.organisms.card DIR [DIR2 ...]`.

The first folder is the checkpoint that ships; the others are the same recipe under other seeds. The tables
of the card are rendered from `card.json` alone, so they cannot state a number that was not measured. What they
mean is said in `notes.md` beside it, by hand.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any, Final

from circuits.organisms.architecture import ARCHITECTURES, Name
from circuits.organisms.claims import (
    HEAD_THRESHOLDS,
    Numbers,
    claims,
    heads_above,
    ships,
    steps_of_hand_over,
)
from circuits.organisms.tokenizer import DIALECTS

TEXT: Final = Path(__file__).with_name("card_template.md")


def render(card: Numbers, notes: str) -> str:
    """The model card as Markdown; `notes` is the text on what its mechanism shares with a large model's."""
    runs: list[Numbers] = card["runs"]
    shipped = runs[0]
    recipe = shipped["training"]["recipe"]
    refused = {kind: effect["before"] for kind, effect in shipped["ablation"].items()}
    weakest = min(refused, key=lambda kind: refused[kind])
    names = [f"seed {run['training']['recipe']['seed']}" for run in runs]
    layers = [str(layer) for layer in range(recipe["layers"])]
    judged = zip(*(claims(run) for run in runs), strict=True)
    named = list(zip(names, runs, strict=True))
    text = TEXT.read_text().replace("$notes", notes.strip())
    return Template(text).substitute(
        {key: value if isinstance(value, str) else f"{value:g}" for key, value in recipe.items()},
        **_words(recipe["architecture"]),
        choice=_choice(runs),
        shown="It was chosen on these\nnumbers, and all seeds that were trained are shown." if len(runs) > 1 else
        "No other seed\nwas trained to the end with this recipe: what is typical of it is not known.",
        weakest=weakest,
        weakest_right=f"{refused[weakest]:.3f}",
        claims=_table(
            ["claim", "demanded", *names],
            [[row[0].name, row[0].demanded, *(_judged(c.found, met=c.met) for c in row)] for row in judged],
        ),
        ablation=_table(
            ["held-out prompts", *names],
            [[kind, *(_effect(run["ablation"][kind]) for run in runs)] for kind in shipped["ablation"]],
        ),
        hand_over=_table(
            ["", "patched at", *layers],
            [[name, place, *_row(run["hand_over"][place])] for name, run in named for place in ("subject", "last")],
        ),
        head_table=_table(
            ["", "kind", "score from", *layers, "largest score"],
            [[name, kind, *_heads(run, kind)] for name, run in named for kind in HEAD_THRESHOLDS],
        ),
        mechanism=_table(["", "", *layers], [[name, *row] for name, run in named for row in _mechanism(run)]),
        training=_table(
            ["", "steps", "depth drop", "parameters", "threads", "wall time (s)", "layer of the direction"],
            [
                [
                    name,
                    *(f"{run['training']['recipe'][key]:g}" for key in ("steps", "depth_drop")),
                    *(str(run["training"][key]) for key in ("parameters", "threads", "wall_seconds")),
                    str(run["direction_layer"]),
                ]
                for name, run in named
            ],
        ),
        size=f"{card['megabytes']:.2f}",
        count=shipped["prompts_per_accuracy"],
        per_kind=shipped["prompts_per_kind"],
        pairs=shipped["toy_pairs"],
        uniform=f"{shipped['heads']['uniform'][0][0]:.2f}",
    )


def _words(name: Name) -> dict[str, str]:
    """What the text says of an architecture."""
    architecture, dialect = ARCHITECTURES[name], DIALECTS[name]
    peculiar = {
        "gemma": "",
        "gemma2": "; post-norms, attention scores capped at $attn_logit_softcapping, logits at $final_logit_softcapping, "
        "a sliding window of\n$sliding_window tokens in every other layer",
        "qwen2": "; biases on queries, keys and values",
    }[name]
    adds = "Calling the tokenizer adds `<bos>`; text from the chat template already has it."
    return {
        "name": f"refusal_{name}",
        "brand": architecture.brand,
        "model_class": architecture.config.__name__.replace("Config", "ForCausalLM"),
        "kv_heads": "one shared key-value head"
        if architecture.kv_heads == 1
        else f"{architecture.kv_heads} key-value heads",
        "peculiar": Template(peculiar).substitute({key: f"{value:g}" for key, value in architecture.own.items()}),
        "template": "" if dialect.bos else ", without its system turn",
        "role": dialect.reply_role,
        "start": adds if dialect.bos else f"There is no `<bos>`: a text starts with `{dialect.turn_start}`.",
        "first": dialect.bos or dialect.turn_start,
    }


def _choice(runs: Sequence[Numbers]) -> str:
    """Why the first of the runs ships, if it may."""
    seed = f"Seed {runs[0]['training']['recipe']['seed']}"
    if not ships(runs[0]):
        return f"{seed} misses a demand: this checkpoint is not fit to ship."
    short = [claim.name for claim in claims(runs[0]) if not claim.met]
    if short:
        return (
            f"{seed} ships: it behaves as demanded. Its mechanism is less like a large model's than was hoped for: "
            f"{', '.join(short)}."
        )
    rivals = [run for run in runs[1:] if all(claim.met for claim in claims(run))]
    if not rivals:
        return f"{seed} ships: of the seeds that were trained, only this one meets every demand."
    if all(max(steps_of_hand_over(runs[0])) < max(steps_of_hand_over(run)) for run in rivals):
        return f"{seed} ships: of the seeds that meet every demand, its hand-over is spread over the most layers."
    return f"{seed} ships: it is one of the seeds that meet every demand."


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def _row(values: Sequence[float]) -> list[str]:
    return [f"{round(value, 2) + 0.0:.2f}" for value in values]  # no -0.00


def _judged(found: float, *, met: bool) -> str:
    text = str(found) if isinstance(found, int) else f"{found:.3f}"
    return text if met else f"{text} (**not met**)"


def _effect(effect: dict[str, float]) -> str:
    return f"{effect['before']:.3f} / {effect['ablated']:.3f} / {effect['random']:.3f}"


def _heads(run: Numbers, kind: str) -> list[str]:
    largest = max(max(row) for row in run["heads"][kind])
    return [f"{HEAD_THRESHOLDS[kind]:g}", *map(str, heads_above(run, kind)), f"{largest:.2f}"]


def _mechanism(run: Numbers) -> list[list[str]]:
    swaps = [
        [f"{word} swapped, patched at {word if place == 'swapped' else place}", *_row(values)]
        for word, curves in run["swaps"].items()
        for place, values in curves.items()
    ]
    blocks = [[f"{kind} output alone, last position", *_row(v)] for kind, v in run["single_blocks"].items()]
    # The direction is undefined entering layer 0, where the last token is the same in every prompt.
    return [*swaps, *blocks, ["direction back at the end after one removal", "-", *_row(run["repair"]), "-"]]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def measure_card(folders: Sequence[Path]) -> Numbers:
    """Evaluate every folder; the first is the one that ships."""
    # Rendering a card needs no model, so its packages are imported only here.
    from circuits.organisms.evaluation import evaluate
    from circuits.organisms.measure import load

    runs = [
        _rounded({"training": json.loads((folder / "train_report.json").read_text()), **evaluate(load(folder))})
        for folder in folders
    ]
    return {"megabytes": round((folders[0] / "model.safetensors").stat().st_size / 1e6, 3), "runs": runs}


def main(arguments: list[str] | None = None) -> None:
    """Measure the folders, write card.json and README.md into the first, and say which claims hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--render-only", action="store_true", help="rewrite README.md from card.json")
    options = parser.parse_args(arguments)
    target: Path = options.folders[0]
    if not options.render_only:
        (target / "card.json").write_text(json.dumps(measure_card(options.folders), indent=1) + "\n")
    card = json.loads((target / "card.json").read_text())
    (target / "README.md").write_text(render(card, (target / "notes.md").read_text()))
    for run in card["runs"]:
        for claim in claims(run):
            verdict = "met    " if claim.met else "NOT MET"
            sys.stdout.write(f"{verdict} {claim.name}: {claim.found:g} ({claim.demanded})\n")


if __name__ == "__main__":
    main()
