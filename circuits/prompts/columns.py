"""The position axis as a figure shows it: one record per column, with a label that is true of all pairs.

A column that reads the same in every prompt carries its token; the column where all pairs swap is
`‹subject›`; a column that varies carries `·`, with its commonest token when most prompts share it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    import pandas as pd

    from circuits.prompts.token_pairs import TokenPairs

SUBJECT: Final = "‹subject›"
VARIES: Final = "·"


@final
@dataclass(frozen=True)
class Column:
    """One token position across all pairs."""

    pos: int
    """Column index, from 0."""
    relative: int
    """The same from the end: −1 is the last token."""
    label: str
    is_template: bool
    """No prompt has instruction here."""
    is_subject: bool
    """Some pair swaps here."""

    @property
    def tick(self) -> str:
        """Position and label in one, unique along the axis: `-6 ‹subject›`."""
        return f"{self.relative} {self.label}"


def columns_of(tokens: TokenPairs) -> list[Column]:
    """One `Column` per position, left to right."""
    subjects = tokens.subject.tolist()
    instruction = tokens.instruction.any(dim=0).tolist()
    return [
        Column(
            pos=pos,
            relative=pos - tokens.n_pos,
            label=SUBJECT if set(subjects) == {pos} else _label(tokens, pos),
            is_template=not instruction[pos],
            is_subject=pos in subjects,
        )
        for pos in range(tokens.n_pos)
    ]


def token_rows(tokens: TokenPairs) -> pd.DataFrame:
    """One row per pair and real token; `pos` is the column, `relative` counts from the end."""
    import pandas as pd

    cells = [(pair, pos) for pair, pos in tokens.mask.nonzero().tolist()]
    clean, corrupt, instruction = tokens.clean.tolist(), tokens.corrupt.tolist(), tokens.instruction.tolist()
    return pd.DataFrame(
        {
            "pair": [pair for pair, _ in cells],
            "pos": [pos for _, pos in cells],
            "relative": [pos - tokens.n_pos for _, pos in cells],
            "role": [tokens.role(pair, pos) for pair, pos in cells],
            "is_template": [not instruction[pair][pos] for pair, pos in cells],
            "clean": [tokens.clean_text[pair][pos] for pair, pos in cells],
            "corrupt": [tokens.corrupt_text[pair][pos] for pair, pos in cells],
            "clean_id": [clean[pair][pos] for pair, pos in cells],
            "corrupt_id": [corrupt[pair][pos] for pair, pos in cells],
        }
    )


def _label(tokens: TokenPairs, pos: int) -> str:
    texts = [row[pos] for rows in (tokens.clean_text, tokens.corrupt_text) for row in rows]
    counts = Counter(text for text in texts if text)
    commonest, count = counts.most_common(1)[0]
    if len(counts) == 1 and count == len(texts):
        return commonest
    return f"{VARIES}{commonest}" if 2 * count > len(texts) else VARIES
