"""Words as tokens: each with and without a leading space, because a vocabulary holds them as two tokens or as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from circuits.errors import TokenError
from circuits.prompts.tokenizer import SPACE, pieces


@final
@dataclass(frozen=True)
class Words:
    """One named set: its token ids, how they are spelled, and the forms that are more than one token, with their pieces."""

    ids: tuple[int, ...]
    spelled: tuple[str, ...]
    """As people read them, `␣` for a space."""
    left_out: tuple[str, ...]
    """`␣cannot ‹␣can|not›`: not counted."""


def resolve(tokenizer: Any, sets: Mapping[str, Sequence[str]]) -> dict[str, Words]:
    """The tokens of every set. A word counts by each of its two forms that is one token.

    Raises TokenError without sets, for an empty one, and for words neither form of which is one token: all of them are
    listed with their pieces.
    """
    empty = [name for name, words in sets.items() if not [w for w in words if w.strip()]]
    if empty or not sets:
        raise TokenError(f"token set {', '.join(empty) or 'none'}: give each at least one word")
    found: dict[str, Words] = {}
    bad: list[str] = []
    for name, words in sets.items():
        ids: dict[int, str] = {}
        left_out: list[str] = []
        for word in dict.fromkeys(w.strip() for w in words if w.strip()):
            forms = {form: _ids(tokenizer, form) for form in (word, f" {word}")}
            whole = {form: got[0] for form, got in forms.items() if len(got) == 1 and got[0] != tokenizer.unk_token_id}
            said = [_said(tokenizer, form, got) for form, got in forms.items() if form not in whole]
            if not whole:
                bad.append(f"  {name}: {', '.join(said)}")
            left_out += said
            for token in whole.values():
                ids.setdefault(token, pieces(tokenizer, [token])[0])
        found[name] = Words(tuple(ids), tuple(ids.values()), tuple(left_out))
    if bad:
        raise TokenError(
            "not one token of this model, with or without a leading space:\n"
            + "\n".join(bad)
            + "\nchoose other words, or the first piece where no other word begins with it"
        )
    return found


def _ids(tokenizer: Any, form: str) -> list[int]:
    return list(tokenizer.encode(form, add_special_tokens=False))


def _said(tokenizer: Any, form: str, ids: Sequence[int]) -> str:
    unknown = [i for i in ids if i == tokenizer.unk_token_id]
    shown = "unknown to the tokenizer" if unknown else "|".join(pieces(tokenizer, ids)) or "nothing"
    return f"{form.replace(' ', SPACE)} ‹{shown}›"
