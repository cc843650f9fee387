"""How much faster than transformer_lens.patching, at equal numbers: one process, both sides, one table.

    python tests/bench/patching.py [--layers 18 --d-model 512 --vocab 64000 --pairs 4 --length 20 --differs 7]

Both sides measure the same metric on the same pairs of the same random Gemma; the table gives the ratio of their times
and the largest difference between their numbers. Seconds depend on the machine; ratios are what is compared.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")  # theirs draws a bar per sweep

import pandas as pd
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import tokenizer

from circuits.engine import sweep
from circuits.interventions import Cell, Patch
from circuits.metrics import RefusalMetric
from circuits.model import Model, load
from circuits.prompts import PairSet, TokenPairs
from circuits.sites import Site, SiteKind, head


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    site: str
    cells: int
    ours: float
    theirs: float
    deviation: float
    measured: int

    @property
    def line(self) -> str:
        ratio = self.theirs / self.ours
        share = "" if self.measured == self.cells else f"  (theirs on {self.measured} cells)"
        return (
            f"{self.site:<28}{self.cells:>7}{self.theirs:>10.2f}{self.ours:>9.3f}{ratio:>8.1f}×"
            f"{self.deviation:>10.1e}{share}"
        )


def random_gemma(folder: Path, args: argparse.Namespace) -> Model:
    """A random Gemma of the size asked for, through the same loader as any other model."""
    from transformers import GemmaConfig, GemmaForCausalLM

    torch.manual_seed(0)
    config = GemmaConfig(
        vocab_size=args.vocab, hidden_size=args.d_model, intermediate_size=4 * args.d_model,
        num_hidden_layers=args.layers, num_attention_heads=8, num_key_value_heads=1, head_dim=args.d_model // 8,
        max_position_embeddings=256, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    GemmaForCausalLM(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return load(str(folder))


def pairs(args: argparse.Namespace, model: Model) -> TokenPairs:
    """Random words; one token differs, `differs` from the end; <bos> is one of the `length` tokens."""
    generator = torch.Generator().manual_seed(1)
    made: list[tuple[str, str]] = []
    for _ in range(args.pairs):
        words = [f"w{i}" for i in torch.randperm(80, generator=generator)[: args.length].tolist()]
        clean, other = words[:-1], words[-1]
        corrupt = [*clean]
        corrupt[-args.differs] = other
        made.append((" ".join(clean), " ".join(corrupt)))
    return PairSet.from_pairs(made).tokenize(model)


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    out = function()
    return out, time.perf_counter() - start


def best(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The fastest of a few runs: what the code costs when nothing else wants the core."""
    runs = [timed(function) for _ in range(repeats)]
    return runs[-1][0], min(seconds for _, seconds in runs)


def compare(model: Model, tokens: TokenPairs, repeats: int, sample: int) -> list[Row]:
    """Every site, ours against theirs; with `sample`, theirs is timed on that many random cells and scaled up."""
    from transformer_lens import patching

    metric = RefusalMetric(model, "w9")
    bound = metric.bind(tokens)
    _, cache = model.bridge.run_with_cache(tokens.clean)

    def theirs_metric(logits: Tensor) -> Tensor:
        return bound(logits[None, :, -1])[0].mean()

    warm = [(Patch(Site("mlp_out", 1), "subject"),)]
    sweep(model, tokens, metric, warm)
    layers, columns, heads = range(model.shape.n_layers), range(tokens.n_pos), range(model.shape.n_heads)

    def grid(kind: SiteKind) -> list[Cell]:
        return [(Patch(Site(kind, layer), p - tokens.n_pos),) for layer in layers for p in columns]

    by_position = [(Patch(head(layer, h), p - tokens.n_pos),) for layer in layers for p in columns for h in heads]
    everywhere = [(Patch(head(layer, h), "all"),) for layer in layers for h in heads]
    sweeps: list[tuple[str, list[Cell], Callable[..., Tensor]]] = [
        ("resid_pre, layer × pos", grid("resid_pre"), patching.get_act_patch_resid_pre),
        ("attn_out, layer × pos", grid("attn_out"), patching.get_act_patch_attn_out),
        ("mlp_out, layer × pos", grid("mlp_out"), patching.get_act_patch_mlp_out),
        ("heads, layer × pos × head", by_position, patching.get_act_patch_attn_head_out_by_pos),
        ("heads at all positions", everywhere, patching.get_act_patch_attn_head_out_all_pos),
    ]
    rows: list[Row] = []
    for site, cells, theirs in sweeps:
        sizes = [
            len(layers),
            *([tokens.n_pos] if "pos" in site.split() else []),
            *([len(heads)] if "head" in site else []),
        ]
        index = pd.DataFrame(list(itertools.product(*map(range, sizes))))
        chosen = sorted(random.Random(0).sample(range(len(cells)), min(sample or len(cells), len(cells))))
        ours, ours_s = best(lambda cells=cells: sweep(model, tokens, metric, cells), repeats)
        with torch.no_grad():
            reference, theirs_s = timed(
                lambda f=theirs, rows=index.iloc[chosen]: f(
                    model.bridge, tokens.corrupt, cache, theirs_metric, index_axis_names=None, index_df=rows
                )
            )
        deviation = (ours.value.mean(-1)[chosen] - reference).abs().max().item()
        rows.append(Row(site, len(cells), ours_s, theirs_s * len(cells) / len(chosen), deviation, len(chosen)))
        sys.stdout.write(rows[-1].line + "\n")
        sys.stdout.flush()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "layers": 18,
        "d-model": 512,
        "vocab": 64_000,
        "pairs": 4,
        "length": 20,
        "differs": 7,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=2, help="runs of ours, the fastest counts")
    parser.add_argument("--sample", type=int, default=0, help="time theirs on this many cells a site (0: all)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = random_gemma(Path(folder), args)
        tokens = pairs(args, model)
        sys.stdout.write(
            f"random {model.title}, {args.pairs} pairs of {tokens.n_pos} tokens, differing {args.differs} from the end, "
            f"fp32, {torch.get_num_threads()} threads\n"
            f"{'site':<28}{'cells':>7}{'TL, s':>10}{'ours, s':>9}{'ratio':>9}{'max diff':>10}\n"
        )
        compare(model, tokens, args.repeats, args.sample)


if __name__ == "__main__":
    main()
