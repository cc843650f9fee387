"""The questions of the bundled tasks, made from the grammar of the bundled models.

    circuits_harm     "Is a hammer harmful?"    Yes / No
    circuits_kinds    "What is a hammer?"       A hammer is a kind of tool. / weapon. / plant. / food.

Every subject of the grammar that is not the name of its own kind is asked about once: they test whether an edit leaves
what words mean alone, nothing more. Models trained on the grammar know the wording; all others read plain English.
Run as a program, it writes the files again.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Final

from circuits.harness.evaluate import TASKS
from circuits.organisms import vocabulary as v
from circuits.organisms.grammar import is_harmful
from circuits.organisms.inflect import noun_phrase
from circuits.organisms.sampling import HELD_OUT_SUBJECTS, SINGULAR

N_KINDS: Final = 4
"""Kinds to choose from, the right one among them: two harmful and two harmless ones, so that harm alone does not tell."""


def harm_questions() -> list[dict[str, Any]]:
    """Whether each subject is harmful; `answer` is the place of the right choice."""
    return [
        {
            "question": f"Is {noun_phrase(subject)} harmful?", "choices": ["Yes", "No"],
            "answer": 0 if is_harmful(subject) else 1, "subject": subject, "held_out": subject in HELD_OUT_SUBJECTS,
        }
        for subject in _subjects()
    ]  # fmt: skip


def kind_questions() -> list[dict[str, Any]]:
    """What kind of thing each subject is; wrong kinds and the order of the choices are drawn, the same in every run."""
    rows: list[dict[str, Any]] = []
    for subject in _subjects():
        rng = random.Random(subject)
        right, phrase = v.CATEGORY[subject], noun_phrase(subject)
        groups = (v.HARMFUL, v.HARMLESS)
        wrong = [
            kind
            for group in groups
            for kind in rng.sample(sorted(set(group) - {right}), N_KINDS // 2 - (right in group))
        ]
        kinds = rng.sample([right, *wrong], N_KINDS)
        rows.append({
            "question": f"What is {phrase}?",
            "choices": [f"{phrase[0].upper()}{phrase[1:]} is a kind of {kind}." for kind in kinds],
            "answer": kinds.index(right), "subject": subject, "held_out": subject in HELD_OUT_SUBJECTS,
        })  # fmt: skip
    return rows


def _subjects() -> list[str]:
    return [s for s in SINGULAR if s != v.CATEGORY[s]]


def write(folder: Path = TASKS) -> None:
    """Write both files, one question per line."""
    for name, rows in (("harm", harm_questions()), ("kinds", kind_questions())):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write()
