"""The unpaired set says of itself what is true: labels of the grammar, both labels in one form, words that are known."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from circuits.errors import CircuitError
from circuits.organisms import bundled
from circuits.organisms import vocabulary as v
from circuits.organisms.grammar import Request, is_harmful, label_of
from circuits.organisms.inflect import gerund, noun_phrase, plural
from circuits.organisms.wording import DO, PREAMBLES, TAILS
from circuits.prompts import toy_refusal_pairs
from circuits.prompts.instructions import Instruction, InstructionSet, diverse_instructions

DIVERSE = diverse_instructions()
GRAMMAR = DIVERSE.of_source("grammar")
TOKENIZER = AutoTokenizer.from_pretrained(bundled()["refusal_gemma"])
NOUNS = {form: (word, is_plural) for word in v.SUBJECTS for form, is_plural in ((word, False), (plural(word), True))}
VERBS = {form: verb for verb in v.VERB_CLASS for form in (verb, gerund(verb))}
SLOT = {"{noun}": r"an? (?P<noun>\w+)", "{person}": r"\w+", "{place}": r"\w+", "{name}": r"\w+"}


def _pattern(text: str, slots: dict[str, str]) -> str:
    text = re.escape(text).replace(r"\{", "{").replace(r"\}", "}")
    for slot, pattern in slots.items():
        text = text.replace(slot, pattern)
    return text


def _parsed(text: str) -> tuple[Request, str]:
    """The one request that a sentence words, and its form: template, preamble or not, and tail."""
    around = [_pattern(p, {k: p if k != "{noun}" else r"an? \w+" for k, p in SLOT.items()}) for p in (*PREAMBLES, *TAILS)]
    before = next((p for p in around[: len(PREAMBLES)] if re.match(p + " ", text)), "")
    text = re.sub("^" + before + " ", "", text) if before else text
    tail = next((p for p in around[len(PREAMBLES) :] if re.search(f" {p}$", text)), "")
    text = re.sub(f" {tail}$", "", text) if tail else text
    filler = {f"{{{a}{slot}}}": r"(?:an? )?\w+" for slot in ("doc", "site", "person") for a in ("", "a_")}
    deed = r"(?P<verb>\w+) (?P<np>(?:an? )?\w+)"
    found = [
        (name, match)
        for name, wording in DO.items()
        if (match := re.fullmatch(_pattern(wording.request, {"{do}": deed, "{doing}": deed, **filler, **SLOT}), text))
        and match["verb"] in VERBS
    ]
    assert len(found) == 1, (text, found)
    name, match = found[0]
    subject, is_plural = NOUNS[match["np"].split()[-1]]
    request = Request(subject, name, VERBS[match["verb"]], None, is_plural)
    assert match["np"] == noun_phrase(subject, is_plural=is_plural), text
    return request, f"{name} {bool(before)} {tail}"


def test_how_many():
    counts = Counter((i.label, i.source) for i in DIVERSE)
    assert counts == {(label, s): n for label in ("harmful", "harmless") for s, n in (("grammar", 64), ("free", 16))}
    texts = [i.text for i in DIVERSE]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {text for pair in toy_refusal_pairs() for text in (pair.clean, pair.corrupt)}
    assert all(text.isascii() and "\n" not in text and text[-1].isalpha() and len(text) < 100 for text in texts)


def test_labels_are_the_grammars():
    expected = {"harmful": "refuse", "harmless": "comply"}
    for i in GRAMMAR:
        assert label_of(_parsed(i.text)[0]) == expected[i.label], i.text


def test_both_labels_have_the_same_forms_and_are_varied():
    forms = {label: Counter(_parsed(i.text)[1] for i in GRAMMAR if i.label == label) for label in ("harmful", "harmless")}
    assert forms["harmful"] == forms["harmless"]
    assert len({form.split()[0] for form in forms["harmful"]}) == 17
    requests = [_parsed(i.text)[0] for i in GRAMMAR]
    assert len({r.subject for r in requests}) > 80
    assert len({r.verb for r in requests}) > 25
    assert len({len(i.text.split()) for i in DIVERSE}) > 8


def test_the_subject_alone_does_not_give_the_label_away():
    """A harmful word is named in harmless requests (report, disable) and a harmless one in harmful ones (steal, wreck)."""
    named = Counter((i.label, is_harmful(_parsed(i.text)[0].subject)) for i in GRAMMAR)
    assert min(named.values()) >= 20


def test_distractors_name_nothing_harmful():
    for i in GRAMMAR:
        own = _parsed(i.text)[0]
        words = re.findall(r"\w+", i.text)
        others = [NOUNS[w][0] for w in words if w in NOUNS and NOUNS[w][0] != own.subject and w not in VERBS]
        assert not [w for w in others if is_harmful(w)], i.text


def test_words_of_the_grammar_are_known_to_the_bundled_model_and_most_free_rows_are_not():
    def pieces(text: str) -> int:
        return max(len(TOKENIZER.tokenize(" " + word)) for word in re.findall(r"\w+", text)[1:])

    assert [i.text for i in GRAMMAR if pieces(i.text) > 1 and "stealing" not in i.text] == []
    free = [pieces(i.text) > 1 for i in DIVERSE.of_source("free")]
    assert sum(free) >= 28


def test_the_bundled_model_behaves_as_the_labels_say():
    from circuits.engine import generate
    from circuits.model import load
    from circuits.refusal import is_refusal

    model = load(device="cpu")
    texts = generate(model, DIVERSE.tokenize(model).beside_themselves(), max_new_tokens=12)
    refused = Counter((i.label, i.source) for i, text in zip(DIVERSE, texts, strict=True) if is_refusal(text))
    assert refused["harmful", "grammar"] >= 62
    assert refused["harmless", "grammar"] <= 2
    assert refused["harmful", "free"] <= 10, "SOURCES.md says that its replies there mean nothing"


def test_tokens_are_those_of_the_prompt_alone():
    tokens = GRAMMAR.tokenize(TOKENIZER)
    for i in (0, 50, 127):
        turn = [{"role": "user", "content": GRAMMAR[i].text}]
        text = TOKENIZER.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert tokens.ids[i][tokens.mask[i]].tolist() == TOKENIZER.encode(text, add_special_tokens=False)
        inside = TOKENIZER.decode(tokens.ids[i][tokens.instruction[i]])
        assert inside.strip() == GRAMMAR[i].text
    assert tokens.harmful.sum() == 64
    pairs = tokens.beside_themselves()
    assert torch.equal(pairs.clean, pairs.corrupt)
    assert pairs.n_pairs == 128
    assert (pairs.subject == pairs.last).all()


def test_sides_of_pairs_keep_their_tokens():
    from circuits.prompts.instruction_tokens import InstructionTokens

    tokens = toy_refusal_pairs()[:3].tokenize(TOKENIZER)
    alone = InstructionTokens.from_pairs(tokens)
    assert torch.equal(alone.ids, torch.cat([tokens.clean, tokens.corrupt]))
    assert alone.harmful.tolist() == [True] * 3 + [False] * 3
    assert [i.text for i in alone.instructions][3] == tokens.pairs[0].corrupt


def test_files_of_ones_own(tmp_path: Path):
    rows = [("Draw a cat", "harmless"), ("Steal a cat", "harmful")]
    expected = tuple(Instruction(text, label) for text, label in rows)
    csv, data, txt = tmp_path / "a.csv", tmp_path / "a.json", tmp_path / "a.txt"
    csv.write_text("label,instruction,more\n" + "".join(f"{label},{text},1\n" for text, label in rows))
    data.write_text(json.dumps([{"instruction": text, "label": label} for text, label in rows]))
    txt.write_text("".join(f"{text}\t{label}\n" for text, label in rows) + "\n")
    for path in (csv, data, txt):
        found = InstructionSet.from_file(path)
        assert found.instructions == expected
        assert (found.name, found.hash) == ("a", InstructionSet(expected).hash)
    txt.write_text("Draw a cat\n\nDraw a dog\n")
    assert [i.label for i in InstructionSet.from_file(txt, label="harmless")] == ["harmless"] * 2


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "instruction\nx\n", "no column label"),
        ("a.csv", "instruction,label\nx,bad\n", "'x': 'bad'"),
        ("a.csv", "instruction,label\nx,\n", "row 2, column label: blank"),
        ("a.json", '{"pairs": []}', "a list of"),
        ("a.json", '[{"instruction": "x"}]', "entry 0, column label: missing"),
        ("a.json", "[", "not JSON"),
        ("a.txt", "x\n\ny\tharmful\n", "line 1, column label"),
        ("a.xls", "x", "give .csv, .json or .txt"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, text: str, said: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(CircuitError, match=re.escape(said)):
        InstructionSet.from_file(tmp_path / name)


def test_nothing_to_tokenize_and_no_such_source():
    with pytest.raises(CircuitError, match="holds no instructions"):
        InstructionSet(()).tokenize(TOKENIZER)
    with pytest.raises(CircuitError, match="no instruction of mine; there are free, grammar"):
        DIVERSE.of_source("mine")
