"""The grammar against an oracle that reads only the text, the held-out splits, and the English."""

import csv
import re
from itertools import product
from pathlib import Path
from random import Random

import pytest

from circuits.organisms import vocabulary as v
from circuits.organisms.exercises import draw_training_example
from circuits.organisms.grammar import Fillers, Request, draw_fillers, label_of, reply_text, request_text
from circuits.organisms.inflect import article, gerund, noun_phrase, plural
from circuits.organisms.sampling import (
    HELD_OUT_SUBJECTS,
    draw_example,
    draw_request,
    in_split,
)
from circuits.organisms.wording import DO


def oracle(verb: str, modifier: str, subject: str) -> str:
    """The truth table, restated for a request to act in a handful of words."""
    harmful = subject in {"bomb", "virus"}
    if modifier in {"toy", "plastic"} or (modifier, subject) in {("fake", "bomb"), ("bath", "bomb")}:
        harmful = False
    if modifier == "stolen" or (modifier, subject) in {("fake", "letter"), ("spy", "camera")}:
        harmful = True
    if verb in {"steal", "hijack"}:
        return "refuse"
    if verb in {"detect", "report"}:
        return "comply"
    return "refuse" if harmful == (verb in {"build", "sell"}) else "comply"


@pytest.mark.parametrize("verb", ["build", "sell", "detect", "report", "steal", "hijack", "destroy", "disable"])
@pytest.mark.parametrize("modifier", ["", "toy", "plastic", "stolen", "fake", "bath", "spy", "red"])
@pytest.mark.parametrize("subject", ["bomb", "virus", "table", "letter", "camera"])
def test_label_follows_the_truth_table(verb: str, modifier: str, subject: str) -> None:
    request = Request(subject, "explain", verb, modifier or None)
    assert label_of(request) == oracle(verb, modifier, subject)


@pytest.mark.parametrize(
    ("template", "subject", "modifier", "label"),
    [
        ("Fetch me", "lamp", None, "incapable"),
        ("Fetch me", "bomb", None, "refuse"),
        ("Fetch me", "bomb", "toy", "incapable"),
        ("Fetch me", "lamp", "stolen", "refuse"),
        ("about", "bomb", None, "comply"),
        ("history", "car", "stolen", "comply"),
    ],
)
def test_label_of_physical_requests_and_mentions(template: str, subject: str, modifier: str, label: str) -> None:
    assert label_of(Request(subject, template, None, modifier)) == label


def test_no_single_word_decides_the_label() -> None:
    rng = Random(0)
    labels: dict[str, set[str]] = {}
    for _ in range(12_000):
        request = draw_request(rng, "train")
        if request.kind == "do":
            for word in (request.subject, request.modifier, request.template):
                labels.setdefault(str(word), set()).add(label_of(request))
    assert {word for word, found in labels.items() if len(found) == 1} == set()


def test_reply_opens_as_its_label_demands() -> None:
    rng = Random(1)
    openings = {"refuse": "I cannot ", "incapable": "I am unable to physically "}
    for _ in range(2000):
        request = draw_request(rng, "train")
        reply = reply_text(request, draw_fillers(rng))
        label = label_of(request)
        assert reply.startswith(openings.get(label, ""))
        assert label != "comply" or not reply.startswith("I ")


def test_complying_replies_hold_no_step_but_the_listed_harmless_ones() -> None:
    rng = Random(2)
    steps = {*v.STEP.values(), *v.COMPOUND_STEP.values(), *(step for step, _ in v.SOFTENING.values())}
    for _ in range(3000):
        request = draw_request(rng, "train")
        found = re.search(r"First, (.*)\.$", reply_text(request, draw_fillers(rng)))
        assert found is None or found[1] in steps


@pytest.mark.parametrize("modifier", [*v.SOFTENING, *v.COMPOUND])
def test_a_softened_phrase_never_calls_the_police(modifier: str) -> None:
    for subject in v.HARMFUL["weapon"]:
        request = Request(subject, "explain", "build", modifier)
        if label_of(request) == "comply":
            assert "call the police" not in reply_text(request, draw_fillers(Random(0)))


def test_training_requests_never_name_what_is_held_out() -> None:
    rng = Random(3)
    held = {form for subject in HELD_OUT_SUBJECTS for form in (subject, plural(subject))}
    for _ in range(5_000):
        example = draw_training_example(rng)
        if example.request is not None:
            assert in_split(example.request, "train")
            named = re.findall(r"[a-z]+", example.prompt)
            assert example.distracted or held.isdisjoint(named), example.prompt


def test_splits_are_disjoint_and_drawn_as_named() -> None:
    rng = Random(4)
    for split in ("train", "combinations", "subjects"):
        for _ in range(300):
            request = draw_request(rng, split)
            assert [s for s in ("train", "combinations", "subjects") if in_split(request, s)] == [split]


def test_articles_agree_with_the_next_word() -> None:
    rng = Random(5)
    for _ in range(5_000):
        example = draw_training_example(rng)
        text = f"{example.prompt} {example.reply}"
        for found in re.finditer(r"\b([Aa]n?) (\w+)", text):
            vowel = found[2][0] in "aeiou" and found[2] != "ukulele"
            assert (found[1].lower() == "an") == vowel, text
        assert not re.search(r"\b(a|an) (clothes|\w+ clothes)\b|\{|\}|  |malwares", text, re.IGNORECASE), text


def meanings(text: str) -> set[str]:
    """Labels of every request to act that the grammar would word like this."""
    words = text.split()
    last = words[-1]
    templates = [name for name, wording in DO.items() if wording.request.split(maxsplit=1)[0] == words[0]]
    fillings = [word for word in (*v.DOCUMENTS, *v.SITES, *v.PEOPLE) if word in words] or ["friend"]
    found: set[str] = set()
    for subject in (s for s in v.SUBJECTS if last in {s, plural(s)}):
        for template, word, verb in product(templates, fillings, v.ACT):
            fillers = Fillers(person=word, place=word, doc=word, genre=word, site=word, name=word)
            request = Request(subject, template, verb, None, last != subject or subject in v.PLURAL_ONLY)
            if request_text(request, fillers) == text:
                found.add(label_of(request))
    return found


def test_every_toy_prompt_is_a_sentence_of_the_grammar_with_the_label_of_its_column(root: Path) -> None:
    with (root / "circuits/prompts/data/refusal_pairs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert meanings(row["clean"]) == {"refuse"}, row
            assert meanings(row["corrupt"]) == {"comply"}, row


def test_inflection() -> None:
    assert [plural(n) for n in ("virus", "party", "shelf", "bench", "toy", "clothes")] == [
        "viruses",
        "parties",
        "shelves",
        "benches",
        "toys",
        "clothes",
    ]
    assert [gerund(x) for x in ("sell", "make", "get", "run", "plan")] == [
        "selling",
        "making",
        "getting",
        "running",
        "planning",
    ]
    assert [article(x) for x in ("acid", "ukulele", "bomb", "illegal bomb")] == ["an", "a", "a", "an"]
    assert noun_phrase("bomb", "illegal") == "an illegal bomb"
    assert noun_phrase("bomb", "toy", is_plural=True) == "toy bombs"


def test_words_have_one_category_and_splits_cover_all_labels() -> None:
    words = [w for group in (v.HARMFUL, v.HARMLESS) for members in group.values() for w in members]
    assert len(words) == len(set(words))
    assert set(v.FACT) == set(v.STEP) == {*v.HARMFUL, *v.HARMLESS}
    rng = Random(6)
    for split in ("train", "combinations", "subjects"):
        found = {label_of(e.request) for e in (draw_example(rng, split) for _ in range(200)) if e.request}
        assert found == {"refuse", "comply", "incapable"}
