"""A judge behind any OpenAI-compatible chat endpoint: asked in parallel, tried again, and never twice the same."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import urlsplit

import numpy as np

from circuits.errors import CircuitError
from circuits.judges.answers import Answers, key_of
from circuits.judges.asking import Asker
from circuits.judges.judged import EMPTY, Judged, blank, require_one_each
from circuits.judges.rubric import RUBRIC, SCORES, question

URL: Final = "CIRCUITS_JUDGE_URL"
MODEL: Final = "CIRCUITS_JUDGE_MODEL"
_KEY: Final = "CIRCUITS_JUDGE_KEY"
_PRICES: Final = ("CIRCUITS_JUDGE_PRICE_IN", "CIRCUITS_JUDGE_PRICE_OUT")


@final
class EndpointJudge:
    """`compliance` and `coherence`, both in [0, 1], as a language model gives them.

    URL, model and key come from the arguments or from CIRCUITS_JUDGE_URL, CIRCUITS_JUDGE_MODEL and CIRCUITS_JUDGE_KEY
    (none: an endpoint that asks for no key). CIRCUITS_JUDGE_PRICE_IN and CIRCUITS_JUDGE_PRICE_OUT, per million tokens, put
    a sum into the cost. Prompts and completions are sent there: mind what they say.

    Good answers are kept in the file `cache`, by everything that decides them, so that a sweep that stopped is resumed
    for free. Time-outs, failures, answers without scores in range: missing, with the reason, and the next is asked. A
    judge's scores are themselves a measurement: validate them on completions read by people.
    """

    def __init__(  # noqa: PLR0913  how patient it is, and with whom
        self,
        url: str | None = None,
        model: str | None = None,
        key: str | None = None,
        *,
        rubric: str = RUBRIC,
        cache: str | Path | None = None,
        workers: int = 4,
        timeout_s: float = 60.0,
        tries: int = 5,
        backoff_s: float = 1.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise CircuitError for what is not set, a URL that is none, or without the package openai; nothing is sent.

        `tries` per question, `backoff_s` before the second, doubling. `options` go into every request; by default
        {"temperature": 0}.
        """
        self.name = "endpoint"
        self.scores = SCORES
        self._url = _checked(_given(url, URL, "the endpoint's URL, for example http://localhost:8000/v1"))
        self.model = _given(model, MODEL, "the name under which the endpoint serves the judging model")
        if workers < 1 or tries < 1 or not timeout_s > 0 or backoff_s < 0:
            raise CircuitError("a judge needs at least one worker, one try and a time limit above zero\nraise them")
        self._rubric, self._workers, self._price = rubric, workers, _price()
        self._options = {"temperature": 0} if options is None else dict(options)
        self._asker = Asker(
            self._url, self.model, os.environ.get(_KEY, "") if key is None else key,
            timeout_s=timeout_s, tries=tries, backoff_s=backoff_s, options=self._options,
        )  # fmt: skip
        self._answers = Answers(cache)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Judged:
        """Ask for every completion that has no kept answer, each (prompt, completion) once; empty ones are missing."""
        require_one_each(prompts, completions)
        self._asker.begin()
        keys = {
            i: key_of(self._url, self.model, self._rubric, self._options, prompt, said)
            for i, (prompt, said) in enumerate(zip(prompts, completions, strict=True))
            if not blank(said)
        }
        first: dict[str, int] = {}
        for i, key in keys.items():
            first.setdefault(key, i)
        new = [key for key in first if self._answers.get(key) is None]
        self._asker.spent.kept = len(first) - len(new)

        def ask(key: str) -> dict[str, float] | str:
            found = self._asker.ask(question(self._rubric, prompts[first[key]], completions[first[key]]))
            if isinstance(found, dict):
                self._answers.put(key, found)
            return found

        with ThreadPoolExecutor(self._workers) as pool:
            answered = dict(zip(new, pool.map(ask, new), strict=True))
        found = {i: self._answers.get(key) or answered[key] for i, key in keys.items()}
        missing = {i: EMPTY for i in range(len(prompts)) if i not in keys}
        missing |= {i: why for i, why in found.items() if isinstance(why, str)}
        values = {name: np.full(len(prompts), np.nan) for name in SCORES}
        for i, scores in found.items():
            for name, value in scores.items() if isinstance(scores, dict) else ():
                values[name][i] = value
        return Judged(values, dict(sorted(missing.items())), self._asker.spent.line(self._price))

    def __repr__(self) -> str:
        return f"EndpointJudge({self.model!r} at {self._url})"


def _given(value: str | None, variable: str, what: str) -> str:
    found = value or os.environ.get(variable, "")
    if not found:
        raise CircuitError(f"no judge is set: {variable} is empty\nset it to {what}, or pass it to EndpointJudge")
    return found


def _checked(url: str) -> str:
    """The URL. Its error does not repeat it: what is wrong with it may be a password."""
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname
    except ValueError:
        bad, parts = True, urlsplit("")
    if bad:
        raise CircuitError(f"{URL} is no address\nit looks like http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise CircuitError(
            f"{URL} carries a name, a password or a query\nput the key into {_KEY}, and the bare address here"
        )
    return url


def _price() -> tuple[float, float] | None:
    """Per million tokens, in and out; None unless both are given. Raises CircuitError for what is no price."""
    given = [os.environ.get(variable, "") for variable in _PRICES]
    if not all(given):
        if any(given):
            raise CircuitError(f"only one of {' and '.join(_PRICES)} is set\nset both, or neither")
        return None
    try:
        price_in, price_out = (float(text) for text in given)
    except ValueError as error:
        raise CircuitError(f"{' and '.join(_PRICES)} must be numbers, per million tokens") from error
    if not (math.isfinite(price_in) and math.isfinite(price_out) and price_in >= 0 and price_out >= 0):
        raise CircuitError(f"{' and '.join(_PRICES)} must not be negative")
    return price_in, price_out
