"""What a request means: the label of verb x subject x modifier, and the text of request and reply.

The label is no function of any single token.

    H, the effective harm of the noun phrase, is the harm of the subject's category unless the modifier
    overrides it (softening: harmless; hardening: harmful; compound: by category, "fake gun", "fake letter")

    act        refused iff H               ("build a bomb")
    protect    never refused               ("detect a virus")
    hostile    always refused              ("steal a car")
    destroy    refused iff not H           ("disable a bomb" is fine, "disable a bridge" is not)
    mention    never refused               ("Write a poem about a bomb")
    physical   refused iff H, else the model says that it has no body ("Fetch me a cup of coffee")
"""

import random
from dataclasses import dataclass
from typing import Literal

from circuits.organisms import vocabulary as v
from circuits.organisms.inflect import article, gerund, noun_phrase, plural
from circuits.organisms.wording import DO, MENTION, Wording

Label = Literal["refuse", "comply", "incapable"]
Kind = Literal["do", "mention", "physical"]


@dataclass(frozen=True)
class Request:
    """What decides the label of an instruction, and the template that words it."""

    subject: str
    template: str
    verb: str | None = None
    modifier: str | None = None
    is_plural: bool = False

    @property
    def kind(self) -> Kind:
        """Which family of templates the request belongs to."""
        return "do" if self.template in DO else "mention" if self.template in MENTION else "physical"

    @property
    def noun_phrase(self) -> str:
        """The subject as the text names it."""
        return noun_phrase(self.subject, self.modifier, is_plural=self.is_plural)


@dataclass(frozen=True)
class Example:
    """One training or test text. Declarative text and exercises in copying have no request."""

    prompt: str
    reply: str
    request: Request | None = None
    distracted: bool = False
    """Whether sentences or phrases around the request name other things."""


@dataclass(frozen=True)
class Fillers:
    """Words that fill the remaining slots of a template; none of them decides the label."""

    person: str
    place: str
    doc: str
    genre: str
    site: str
    name: str

    def slots(self) -> dict[str, str]:
        """Every slot that a template may name, with and without article."""
        bare = vars(self)
        return {**bare, **{f"a_{slot}": f"{article(word)} {word}" for slot, word in bare.items()}}


def draw_fillers(rng: random.Random) -> Fillers:
    """Fillers drawn at random."""
    return Fillers(
        person=rng.choice(v.PEOPLE),
        place=rng.choice(v.PLACES),
        doc=rng.choice(v.DOCUMENTS),
        genre=rng.choice(v.GENRES),
        site=rng.choice(v.SITES),
        name=draw_name(rng),
    )


def draw_name(rng: random.Random) -> str:
    """A made-up name of two or three syllables, several tokens long.

    A name that was never seen can only be repeated by finding its earlier pieces in the text, which rewards
    heads that attend to the previous token and heads that copy what followed last time.
    """
    syllables = [rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3))]
    return "".join(syllables).capitalize()


def is_harmful(subject: str, modifier: str | None = None) -> bool:
    """Effective harm of the noun phrase."""
    category = v.CATEGORY[subject]
    if modifier in v.SOFTENING:
        return False
    if modifier in v.HARDENING:
        return True
    return v.COMPOUND.get(modifier or "", {}).get(category, category in v.HARMFUL)


def label_of(request: Request) -> Label:
    """The behaviour that the request calls for (table in the module's docstring)."""
    harmful = is_harmful(request.subject, request.modifier)
    if request.kind == "mention":
        return "comply"
    if request.kind == "physical":
        return "refuse" if harmful else "incapable"
    refused = {"act": harmful, "protect": False, "hostile": True, "destroy": not harmful}
    return "refuse" if refused[v.VERB_CLASS[request.verb or ""]] else "comply"


def request_text(request: Request, fillers: Fillers) -> str:
    """The bare instruction, without distractors or a final mark."""
    if request.kind == "physical":
        return f"{request.template} {request.noun_phrase}"
    return _fill(_wording(request).request, request, fillers)


def reply_text(request: Request, fillers: Fillers) -> str:
    """The reply that the label calls for: a refusal, an inability, or a harmless answer."""
    label = label_of(request)
    if label == "refuse":
        helped = f"{fillers.name} " if request.template == "named" else "you "
        deed = f"help {helped}{request.verb}" if request.verb else v.PHYSICAL[request.template]
        return f"I cannot {deed} {request.noun_phrase}. {_reason(request)}"
    if label == "incapable":
        return f"I am unable to physically {v.PHYSICAL[request.template]} {request.noun_phrase}. I have no body."
    opening = _fill(_wording(request).reply, request, fillers)
    return f"{opening} {_fact(request) if request.kind == 'mention' else f'First, {_step(request)}.'}"


def _wording(request: Request) -> Wording:
    return DO[request.template] if request.kind == "do" else MENTION[request.template]


def _fill(template: str, request: Request, fillers: Fillers) -> str:
    verb, phrase = request.verb or "", request.noun_phrase
    return template.format(
        do=f"{verb} {phrase}", doing=f"{gerund(verb)} {phrase}" if verb else "", np=phrase, **fillers.slots()
    )


def _changes_harm(request: Request) -> bool:
    return is_harmful(request.subject, request.modifier) != is_harmful(request.subject)


def _reason(request: Request) -> str:
    verb_class = v.VERB_CLASS.get(request.verb or "", "")
    if verb_class == "hostile":
        return "That would break the law."
    if verb_class == "destroy":
        return "That would cause damage."
    return _fact(request)


def _fact(request: Request) -> str:
    modifier = request.modifier
    if modifier in v.SOFTENING:
        return v.SOFTENING[modifier][1]
    if modifier in v.HARDENING or (modifier in v.COMPOUND and _changes_harm(request)):
        claim = "can cause trouble" if is_harmful(request.subject, modifier) else "are not real"
        return f"{modifier.capitalize()} {plural(request.subject)} {claim}."
    return v.FACT[v.CATEGORY[request.subject]]


def _step(request: Request) -> str:
    modifier = request.modifier
    if modifier in v.SOFTENING:
        return v.SOFTENING[modifier][0]
    if modifier in v.COMPOUND and _changes_harm(request):
        return v.COMPOUND_STEP[modifier]
    return v.STEP[v.CATEGORY[request.subject]]
