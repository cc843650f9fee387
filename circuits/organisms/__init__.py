"""Small trained models with a known make-up, and everything that makes them.

Reading order: `vocabulary` (words), `inflect` and `wording` (how they are said), `grammar` (what a request
means), `sampling` (splits and distractors), `architecture` and `tokenizer` (what sets the families apart),
`train`, then `measure` and `card` (what a checkpoint turned out to do). The checkpoints lie beside the code in Hugging
Face format; `bundled` finds them. `planted` writes models whose circuit is known by construction.
"""

from pathlib import Path


def bundled() -> dict[str, Path]:
    """Name and folder of every checkpoint that comes with the package."""
    home = Path(__file__).parent
    return {config.parent.name: config.parent for config in sorted(home.glob("*/config.json"))}
