"""Damage to files: characters, pieces, values and elements changed at random, from a seed."""

from __future__ import annotations

import copy
import json
import random
from xml.etree import ElementTree as ET

CHARS = "\"<>&[]{}:,;=\\/'@.#\n\t\0\ufffe\ud800é🜨٣-+eE0123456789aLHnulltruefalseNaNInfinity "
WORDS = [
    "null", "NaN", "Infinity", "-0.0", "1e999", "9007199254740993", "true", "1" * 5000, "[" * 3000, "{}", "[]", '""',
    "<!DOCTYPE a>", "<!ENTITY a 'b'>", "<a/>", "&a;", "&#0;", "]]>", "<!--", "L0.H0", "metric", "__proto__", "\x00", "-1",
]  # fmt: skip
ODD = [
    None, True, False, 0, -1, 1, 2**53 + 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "L0.H1", "metric",
    "embed", "q", "final", "nobody", "x" * 2000, "\x00", "\ud800", "L9" * 99, "a0.h1->m1", "[1]", "{", [], [1], {}, {"id": "x"},
    [[]], {"data": {}}, ["id", "x"],
]  # fmt: skip


def damaged(text, rng):
    """`text` with one to three changes of it, its JSON or its XML."""
    for _ in range(rng.randint(1, 3)):
        change = rng.choice([cut, drop, repeat, replace, insert, swap, value, value, value, element, element, element])
        text = change(text, rng) or text
    return text


def spot(text, rng):
    start = rng.randrange(len(text) + 1)
    return start, min(len(text), start + rng.choice([1, 1, 2, 5, 20, 100]))


def cut(text, rng):
    return text[: rng.randrange(len(text) + 1)]


def drop(text, rng):
    start, stop = spot(text, rng)
    return text[:start] + text[stop:]


def repeat(text, rng):
    start, stop = spot(text, rng)
    return text[:stop] + text[start:]


def replace(text, rng):
    start, stop = spot(text, rng)
    return text[:start] + "".join(rng.choices(CHARS, k=stop - start)) + text[stop:]


def insert(text, rng):
    start, _ = spot(text, rng)
    return text[:start] + rng.choice(WORDS) + text[start:]


def swap(text, rng):
    (a, b), (c, d) = sorted([spot(text, rng), spot(text, rng)])
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]


def value(text, rng):
    """A value of the JSON replaced, taken out, renamed or put twice."""
    try:
        data = json.loads(text)
        places = list(inside(data))
        if places:
            change(*rng.choice(places), places, rng)
        return json.dumps(data)
    except (ValueError, RecursionError):  # damaged before, or a value put into itself
        return None


def inside(item):
    """Every place of JSON: what holds it, and its key or number there."""
    pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
    for key, inner in list(pairs):
        yield item, key
        yield from inside(inner)


def change(parent, key, places, rng):
    act = rng.choice(["replace", "replace", "delete", "twice", "other"])
    if act == "delete":
        del parent[key]
    elif act == "twice" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif act == "twice":
        parent[rng.choice([word for word in ODD if isinstance(word, str)])] = copy.deepcopy(parent[key])
    elif act == "other":
        elsewhere, name = rng.choice(places)
        parent[key] = copy.deepcopy(elsewhere[name])
    else:
        parent[key] = copy.deepcopy(rng.choice(ODD))


def element(text, rng):
    """An element of the XML taken out, put twice, renamed, or given another attribute or text."""
    try:
        root = ET.fromstring(text)  # noqa: S314  our own text
        family = [(parent, child) for parent in root.iter() for child in parent]
        if family:
            alter(*rng.choice(family), [child for _, child in family], rng)
        return ET.tostring(root, encoding="unicode")
    except (ET.ParseError, ValueError, RecursionError):
        return None


def alter(parent, child, others, rng):
    said = rng.choice([word for word in ODD if isinstance(word, str)])
    name = rng.choice([*child.attrib, "id", "for", "type", "kind", "directed", "mode"])
    acts = {
        "out": lambda: parent.remove(child),
        "twice": lambda: parent.append(copy.deepcopy(child)),
        "tag": lambda: setattr(child, "tag", rng.choice(others).tag),
        "said": lambda: child.set(name, said),
        "swapped": lambda: child.set(name, rng.choice([said, *(v for other in others for v in other.attrib.values())])),
        "bare": lambda: child.attrib.pop(name, None),
        "text": lambda: setattr(child, "text", said),
        "tail": lambda: setattr(child, "tail", said),
        "inside": lambda: child.append(copy.deepcopy(rng.choice(others))),
    }
    acts[rng.choice(list(acts))]()


def attempts(texts, seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        yield damaged(rng.choice(texts), rng)
