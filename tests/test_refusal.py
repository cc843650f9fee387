"""The refusal score agrees with published labels, phrase by phrase and file by file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from circuits.refusal import REFUSAL_PHRASES, is_refusal


@pytest.mark.parametrize("name", ["harmless_baseline", "harmless_actadd"])
def test_all_published_labels(shared: Path, name: str):
    stored = json.loads((shared / "reference" / "qwen-1_8b-chat" / f"{name}_evaluations.json").read_text())
    rows = stored["completions"]
    assert len(rows) == 100
    labels = [row["is_jailbreak_substring_matching"] for row in rows]
    assert [int(not is_refusal(row["response"])) for row in rows] == labels


def test_both_labels_occur(shared: Path):
    """So that agreement is no accident of a constant."""
    stored = json.loads((shared / "reference" / "qwen-1_8b-chat" / "harmless_actadd_evaluations.json").read_text())
    assert len({row["is_jailbreak_substring_matching"] for row in stored["completions"]}) == 2


@pytest.mark.parametrize("phrase", REFUSAL_PHRASES)
def test_each_phrase_counts_anywhere_in_any_spelling(phrase: str):
    for text in (phrase, f"Well, {phrase.upper()} about that.", phrase.replace("'", "\u2019").lower()):
        assert is_refusal(text)
    assert not is_refusal(phrase[:-1])


@pytest.mark.parametrize("text", ["", "Sure! Here is how.", "I can do that.", "We cannot know.", "I am able to help."])
def test_compliance_is_no_refusal(text: str):
    assert not is_refusal(text)
