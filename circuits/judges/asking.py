"""One question to an OpenAI-compatible endpoint: tried again where that can help, counted, and never raising."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, final

from circuits.errors import CircuitError
from circuits.judges.rubric import read_answer

_LONGEST: Final = 60.0
"""Seconds that a wait between two tries never exceeds, whatever the endpoint asks for."""
_AGAIN: Final = (408, 409, 425, 429)
"""Status codes after which a later try may succeed; so it may after all from 500 on."""
_NO_CHAT: Final = "the endpoint's answer is no chat completion; is the URL the one that ends in /v1?"


@final
@dataclass
class Spent:
    """What one round of judging used."""

    calls: int = 0
    """Requests sent, repeated ones included."""
    kept: int = 0
    """Answers that were on disk already."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Answers whose tokens the endpoint did not tell."""

    def line(self, price: tuple[float, float] | None) -> str:
        """Calls, answers from the cache, tokens, and what they cost at a price per million in and out."""
        tokens = f"{self.prompt_tokens} prompt and {self.completion_tokens} completion tokens"
        unknown = f" (unknown for {self.uncounted} answers)" if self.uncounted else ""
        said = f"{self.calls} calls, {self.kept} from the cache, {tokens}{unknown}"
        if price is None:
            return said
        spent = (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / 1e6
        return f"{said}, {spent:.4g} at {price[0]:g} in and {price[1]:g} out per million"


@final
class Asker:
    """A connection to one model behind one endpoint. Its key is in no text that leaves it."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str,
        *,
        timeout_s: float,
        tries: int,
        backoff_s: float,
        options: Mapping[str, Any],
    ) -> None:
        try:
            self._openai: Any = import_module("openai")
        except ImportError as error:
            raise CircuitError(
                "a judge behind an endpoint needs the package openai\npip install 'circuit-patching[judge]'"
            ) from error
        # a key that is not ours is never sent on: without one, the client would take OPENAI_API_KEY
        self._client = self._openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=0)
        self._model, self._key, self._options = model, key, dict(options)
        self._timeout_s, self._tries, self._backoff_s = timeout_s, tries, backoff_s
        self._lock = threading.Lock()
        self._unreachable = ""
        self.spent = Spent()

    def begin(self) -> None:
        """Count from zero, and try again what was unreachable."""
        self.spent, self._unreachable = Spent(), ""

    def ask(self, question: str) -> dict[str, float] | str:
        """The scores, or why there are none.

        Once the endpoint could not be reached in all tries, no further question of this round is sent.
        """
        reason = ""
        for n in range(self._tries):
            if self._unreachable:
                return reason or f"not asked: {self._unreachable}"
            with self._lock:
                self.spent.calls += 1
            try:
                answer = self._client.chat.completions.create(
                    model=self._model, messages=[{"role": "user", "content": question}], **self._options
                )
            except self._openai.OpenAIError as error:
                reason = self._said_of(error)
                if not self._again(error):
                    return reason
                if n + 1 < self._tries:
                    time.sleep(self._wait(error, n))
                elif self._is_unreachable(error):
                    self._unreachable = reason
            except ValueError:  # what says that it is JSON and is not
                return _NO_CHAT
            else:
                return self._clean(self._read(answer))
        return reason

    def _read(self, answer: Any) -> dict[str, float] | str:
        """Count an answer's tokens and read its scores; what answers may not be what was asked for."""
        choices, used = getattr(answer, "choices", None), getattr(answer, "usage", None)
        counts = [getattr(used, name, None) for name in ("prompt_tokens", "completion_tokens")]
        told = [n if isinstance(n, int) else 0 for n in counts]
        with self._lock:
            self.spent.prompt_tokens += told[0]
            self.spent.completion_tokens += told[1]
            self.spent.uncounted += not all(isinstance(n, int) for n in counts)
        choice: Any = choices[0] if isinstance(choices, list) and choices else None
        message: Any = getattr(choice, "message", None)
        if message is None:
            return _NO_CHAT
        declined = getattr(message, "refusal", None)
        if declined:
            return f"the judge declined: {str(declined)[:80]!r}"
        content = getattr(message, "content", None)
        found = read_answer(content if isinstance(content, str) else None)
        if isinstance(found, str) and getattr(choice, "finish_reason", None) == "length":
            return f"the judge's answer was cut off: {found}"
        return found

    def _again(self, error: Exception) -> bool:
        status = getattr(error, "status_code", None)
        return isinstance(error, self._openai.APIConnectionError) or (
            isinstance(status, int) and (status in _AGAIN or status >= 500)
        )

    def _is_unreachable(self, error: Exception) -> bool:
        if isinstance(error, self._openai.APITimeoutError):  # one slow answer does not mean that the next is slow
            return type(error.__cause__).__name__ == "ConnectTimeout"
        return isinstance(error, self._openai.APIConnectionError)

    def _wait(self, error: Exception, n: int) -> float:
        """Seconds before the next try: what the endpoint asks for, else doubling."""
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        try:
            asked = float(headers.get("retry-after", ""))
        except ValueError:
            asked = 0.0
        return min(_LONGEST, max(asked, self._backoff_s * 2**n))

    def _said_of(self, error: Exception) -> str:
        tried = f" in {self._tries} tries" if self._again(error) else ""
        if isinstance(error, self._openai.APITimeoutError):
            return f"no answer within {self._timeout_s:g} s{tried}"
        if isinstance(error, self._openai.APIConnectionError):
            return f"the endpoint is unreachable{tried} ({type(error.__cause__ or error).__name__})"
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return str(self._clean(f"the endpoint answers {status}{tried}: {str(error)[:160]}"))
        return f"the endpoint's answer cannot be read ({type(error).__name__})"

    def _clean(self, found: dict[str, float] | str) -> dict[str, float] | str:
        """An endpoint may repeat the key it was sent."""
        return found.replace(self._key, "***") if isinstance(found, str) and self._key else found
