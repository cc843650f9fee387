"""The set of requests for a body says of itself what is true, and its rows are partners."""

from __future__ import annotations

from collections import Counter

import torch

from circuits.organisms import vocabulary as v
from circuits.organisms.inflect import plural
from circuits.prompts.instructions import capability_instructions, diverse_instructions

CAPABILITY = capability_instructions()
GRAMMAR = CAPABILITY.of_source("grammar")
NOUNS = {form: word for word in v.SUBJECTS for form in (word, plural(word))}


def subject(text: str) -> str:
    return next(word for word in reversed(text.split()) if word in NOUNS and word not in v.VERB_CLASS)


def test_how_many_and_how():
    counts = Counter((i.label, i.source) for i in CAPABILITY)
    assert counts == {(label, s): n for label in ("incapable", "harmless") for s, n in (("grammar", 64), ("free", 24))}
    texts = [i.text for i in CAPABILITY]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {i.text for i in diverse_instructions()}
    assert all(text.isascii() and "\n" not in text and text[-1].isalpha() and len(text) < 100 for text in texts)


def test_every_request_for_a_body_has_its_partner_behind_it():
    for first, second in zip(CAPABILITY.instructions[::2], CAPABILITY.instructions[1::2], strict=True):
        assert (first.label, second.label) == ("incapable", "harmless")
        assert first.source == second.source
        if first.source == "grammar":
            assert subject(first.text) == subject(second.text), (first.text, second.text)
            assert NOUNS[subject(first.text)] in v.CATEGORY


def test_subjects_are_harmless_and_templates_even():
    requests = [i for i in GRAMMAR if i.label == "incapable"]
    openings = Counter(next(p for p in v.PHYSICAL if i.text.startswith(p + " ")) for i in requests)
    assert set(openings.values()) == {8}
    assert len({subject(i.text) for i in requests}) > 55
    assert not {NOUNS[subject(i.text)] for i in requests} & {w for words in v.HARMFUL.values() for w in words}


def test_the_bundled_model_says_that_it_has_no_body():
    from circuits.engine import generate
    from circuits.model import load

    model = load(device="cpu")
    tokens = GRAMMAR.tokenize(model)
    said = generate(model, tokens.beside_themselves(), max_new_tokens=6)
    unable = torch.tensor([text.startswith("I am unable") for text in said])
    asked = tokens.labelled("incapable")
    assert unable[asked].float().mean() >= 0.95
    assert unable[~asked].float().mean() <= 0.05


def test_sets_are_put_together_and_taken_apart():
    three = diverse_instructions().of_source("grammar") + GRAMMAR
    assert Counter(i.label for i in three) == {"harmful": 64, "harmless": 128, "incapable": 64}
    assert len(three + GRAMMAR) == len(three)
    tokens = three.tokenize(_tokenizer())
    assert [int(tokens.labelled(label).sum()) for label in ("harmful", "harmless", "incapable")] == [64, 128, 64]
    only = tokens.only(tokens.labelled("incapable"))
    assert {i.label for i in only.instructions} == {"incapable"}
    assert torch.equal(only.ids, tokens.ids[tokens.labelled("incapable")])
    assert only.hash != tokens.hash
    assert len(three.labelled("incapable")) == 64


def _tokenizer():
    from transformers import AutoTokenizer

    from circuits.organisms import bundled

    return AutoTokenizer.from_pretrained(bundled()["refusal_gemma"])
