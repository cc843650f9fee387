"""What the write-up reports on Qwen2.5-7B-Instruct, per section: a reference, never a result here."""

from __future__ import annotations

from typing import Final

PUBLISHED: Final = {
    "planes": "The plane of the best candidate and the first principal component of all layers' candidates; the last two "
    "components did not work.",
    "circle": "Refusal from −20° to 100°, its centre at 30° to 40°; non-refusal strongest at 210° to 220°.",
    "axis": "Across the axis the model answers with a warning (110° to 160°) or moralises (290° to 330°): the perpendicular is "
    "taken for a related concept.",
    "edits": "Vector addition and ablation are special cases of rotation.",
    "compared": "The last two principal components fail; the mean of the candidates and single samples were left to try.",
}
"""Section id -> finding on the real model."""
