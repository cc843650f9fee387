"""One number per run: how much the model is about to do the thing.

    RefusalMetric(model, "I")                 logit["I"] - mean(all other logits)
    LogitDifference(model, "sorry", "sure")   logit["sorry"] - logit["sure"]; without tokens, each pair's own
    LogOdds(model, "I")                       log p/(1 - p) of the tokens together

A metric is bound to pairs before use. Bound metrics that are linear in the logits know their pullback through the
unembedding: one direction per pair whose inner product with the normalised final residual is the metric, so that no
unembedding is needed (nor the vocabulary of logits held).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits import display
from circuits.errors import TokenError
from circuits.model import Model
from circuits.prompts.align import TokenPairs


def token_id(tokenizer: Any, token: str) -> int:
    """The id of a string that is one token. Raises TokenError showing the pieces of one that is not."""
    known = tokenizer.get_vocab()
    if token in known:
        return known[token]
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return ids[0]
    pieces = "|".join(tokenizer.convert_ids_to_tokens(ids)) or "nothing"
    raise TokenError(
        f"metric token {token!r} is {len(ids)} tokens of this model: ‹{pieces}›\n"
        "give one token as the vocabulary spells it, e.g. the first piece"
    )


class BoundMetric(ABC):
    """A metric with the token ids of every pair resolved."""

    @abstractmethod
    def __call__(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        """The metric of each row's logits at the last position."""

    def pullback(self, w_u: Float[Tensor, "d_vocab d_model"]) -> Float[Tensor, "pair d_model"] | None:
        """The metric's direction in the normalised final residual, or None where it is not linear in the logits."""
        del w_u
        return None


class Metric(ABC):
    """What is measured, independent of the pairs it is measured on."""

    name: str

    @abstractmethod
    def bind(self, pairs: TokenPairs) -> BoundMetric:
        """Resolve every pair's tokens. Raises TokenError naming the pair."""

    def _repr_html_(self) -> str:
        said = (type(self).__doc__ or "").partition("\n")[0]
        return display.card(self.name, display.lines(f"{type(self).__name__}: {said}"))


@final
@dataclass(frozen=True, eq=False)
class _Difference(BoundMetric):
    """logit[target] - logit[other], per pair."""

    target: Int[Tensor, " pair"]
    other: Int[Tensor, " pair"]

    def __call__(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        pair = torch.arange(logits.shape[1])
        return logits[:, pair, self.target].float() - logits[:, pair, self.other].float()

    def pullback(self, w_u: Float[Tensor, "d_vocab d_model"]) -> Float[Tensor, "pair d_model"]:
        return w_u[self.target].float() - w_u[self.other].float()


@final
@dataclass(frozen=True, eq=False)
class _AgainstMean(BoundMetric):
    """logit[target] - mean of all other logits."""

    target: int
    n_pairs: int

    def __call__(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        target, logits = logits[..., self.target].float(), logits.float()
        return target - (logits.sum(-1) - target) / (logits.shape[-1] - 1)

    def pullback(self, w_u: Float[Tensor, "d_vocab d_model"]) -> Float[Tensor, "pair d_model"]:
        target = w_u[self.target].float()
        # a quarter of a million terms that nearly cancel: short sums in fp32, these in double
        total = torch.stack([rows.float().sum(0) for rows in w_u.split(1024)]).double().sum(0)
        others = (total - target.double()) / (w_u.shape[0] - 1)
        return (target - others.float()).expand(self.n_pairs, -1)


@final
@dataclass(frozen=True, eq=False)
class _LogOdds(BoundMetric):
    """log p - log(1 - p) of a set of tokens."""

    target: Int[Tensor, " candidate"]

    def __call__(self, logits: Float[Tensor, "row pair d_vocab"]) -> Float[Tensor, "row pair"]:
        logits = logits.float()
        others = logits.clone()
        others[..., self.target] = -torch.inf
        return logits[..., self.target].logsumexp(-1) - others.logsumexp(-1)


@final
class RefusalMetric(Metric):
    """logit[token] - mean of all other logits: the write-up's proxy for the propensity to refuse.

    Linear in the logits. It also rises for every other reply that begins with the token: compare with generations.
    Source: "Analysing the Refusal Circuit in Gemma 2b IT".
    """

    def __init__(self, model: Model, token: str = "I") -> None:
        self.token = token
        self._id = token_id(model.tokenizer, token)
        self.name = f'logit["{token}"] − mean(others)'

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        return _AgainstMean(self._id, pairs.n_pairs)


@final
class LogitDifference(Metric):
    """logit[answer] - logit[wrong], for two tokens or, without tokens, for each pair's own `answer` and `wrong`."""

    def __init__(self, model: Model, answer: str | None = None, wrong: str | None = None) -> None:
        if (answer is None) != (wrong is None):
            raise TokenError("LogitDifference takes two tokens, or none to use each pair's own answer and wrong")
        self._tokenizer = model.tokenizer
        self._ids = None
        if answer is not None and wrong is not None:
            self._ids = (token_id(model.tokenizer, answer), token_id(model.tokenizer, wrong))
            if self._ids[0] == self._ids[1]:
                raise TokenError(f"{answer!r} and {wrong!r} are the same token: their difference is always 0")
        self.name = "logit[answer] − logit[wrong]" if answer is None else f'logit["{answer}"] − logit["{wrong}"]'

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        if self._ids is not None:
            target, other = (torch.full((pairs.n_pairs,), i) for i in self._ids)
            return _Difference(target, other)
        ids: list[tuple[int, int]] = []
        for i, pair in enumerate(pairs.pairs):
            if pair.answer is None or pair.wrong is None:
                raise TokenError(f"pair {i} has no answer and wrong; add those columns or give the metric two tokens")
            try:
                found = token_id(self._tokenizer, pair.answer), token_id(self._tokenizer, pair.wrong)
            except TokenError as error:
                raise TokenError(f"pair {i}: {error}") from error
            if found[0] == found[1]:
                raise TokenError(f"pair {i}: answer {pair.answer!r} and wrong {pair.wrong!r} are the same token")
            ids.append(found)
        target, other = torch.tensor(ids).T
        return _Difference(target, other)


@final
class LogOdds(Metric):
    """log p/(1 - p) of the given first tokens together, as in the single-direction study. Not linear in the logits."""

    def __init__(self, model: Model, *tokens: str) -> None:
        if not tokens:
            raise TokenError("LogOdds takes at least one token")
        self._ids = torch.tensor([token_id(model.tokenizer, token) for token in tokens])
        self.name = "log-odds of " + ", ".join(f'"{token}"' for token in tokens)

    def bind(self, pairs: TokenPairs) -> BoundMetric:
        del pairs
        return _LogOdds(self._ids)


def parse_metric(model: Model, text: str) -> Metric:
    """Read a metric from the command line: `refusal:I`, `diff:sorry,sure`, `diff` (pairs' own), `log-odds:I,As`.

    Raises TokenError showing the forms it takes, or the pieces of a string that is not one token.
    """
    kind, _, rest = text.partition(":")
    tokens = [token for token in rest.split(",") if token]
    match kind, len(tokens):
        case "refusal", 1:
            return RefusalMetric(model, tokens[0])
        case "diff", 0:
            return LogitDifference(model)
        case "diff", 2:
            return LogitDifference(model, *tokens)
        case "log-odds", n if n > 0:
            return LogOdds(model, *tokens)
        case _:
            raise TokenError(
                f"metric {text!r} is not one of: refusal:TOKEN, diff:ANSWER,WRONG, diff (each pair's own), "
                "log-odds:TOKEN[,…]"
            )
