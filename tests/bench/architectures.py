"""Which architectures are exact, and how exact: docs/architectures.md, from the cells that the tests hold to the oracle.

    python tests/bench/architectures.py [--out docs/architectures.md]

Every cell is measured by the engine on left-padded pairs of unequal lengths and by the oracle, one unpadded prompt at a
time in a whole forward pass with plain hooks; the table gives the largest difference found.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch starts its threads
TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "engine")]

import small_models  # noqa: E402  found on the path just given
import test_against_oracle as held  # noqa: E402

from circuits.engine import sweep  # noqa: E402
from circuits.sites import HOOK_NAMES  # noqa: E402

PAGE = TESTS.parent / "docs" / "architectures.md"
TEXT = """<!-- Made by `make architectures`: change tests/bench/architectures.py, or measure again. -->
# Which models

Every decoder-only transformer of attention and MLP blocks that transformer-lens and transformers both know can be loaded;
`load` proves on each what the engine relies on, and refuses it with the number that failed. These are held to an independent
oracle in the tests: tiny random checkpoints, saved and loaded as Hugging Face folders, {pairs} left-padded pairs of {lengths}
tokens, fp32. *Deviation* is the largest difference of the metric between the engine and a whole forward pass of the unpadded
prompt with plain hooks, over all cells and both directions, as a share of the largest metric (at least 1).

{table}

Sites: {sites}. `k` and `v` are addressed by key-value head; `q` and `k` are what is rotated, after the norm on them where
there is one; `attn_out` and `mlp_out` are what is added to the residual stream, after the post-norm where there is one. A fused
projection is cut where the architecture cuts it. Versions: {versions}.
"""


def row(architecture: str) -> str:
    """Measure one architecture."""
    model = small_models.model(architecture)
    cells = [*held._every_site(architecture), *held._pattern_cells(), *held._groups(architecture)]
    worst = 0.0
    for direction in ("denoise", "noise"):
        found = sweep(model, held.TOKENS, held._metric(architecture, "refusal"), cells, direction=direction)
        expected = held._expected(architecture, cells, direction)["refusal"]
        scale = max(1.0, expected.abs().max().item())
        worst = max(worst, (found.value.double() - expected).abs().max().item() / scale)
    lacking = "; ".join(f"{kind}: {reason}" for kind, reason in model.parts.lacking.items()) or "–"
    name = type(model.hf).__name__
    line = f"| {name} | {2 * len(cells)} | {worst:.1e} | {max_fact(model.facts):.1e} | {lacking} |"
    print(line, flush=True)
    return line


def max_fact(facts: dict[str, float]) -> float:
    """The largest deviation among what was proved on load."""
    return max(value for fact, value in facts.items() if not fact.startswith("smallest"))


def main() -> None:
    """Measure all architectures and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    head = ["| architecture | cells | deviation | proofs on load, largest | sites it lacks |", "|---|---|---|---|---|"]
    lengths = held.TOKENS.lengths
    text = TEXT.format(
        pairs=held.TOKENS.n_pairs, lengths=f"{int(lengths.min())} to {int(lengths.max())}",
        table="\n".join([*head, *(row(a) for a in small_models.ARCHITECTURES)]), sites=", ".join(HOOK_NAMES),
        versions=", ".join(f"{n} {version(n).split('+')[0]}" for n in ("torch", "transformers", "transformer-lens")),
    )  # fmt: skip
    out.write_text(text)


if __name__ == "__main__":
    main()
