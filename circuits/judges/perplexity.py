"""Coherence by the model's own likelihood: how expected the completion is to the model before it was edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float

from circuits.engine.logits import room_for_logits
from circuits.judges.judged import EMPTY, Judged, blank, require_one_each
from circuits.model import Model
from circuits.prompts.chat import Template, render, uses_chat

_COPIES: Final = 4
"""Tensors of the logits' size that live at once: logits in the model's dtype, in fp32, and their log-softmax."""
Text = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of a prompt in its template, and of the completion."""


@final
class PerplexityJudge:
    """`nll`: mean −log p of the completion's tokens (nats); `coherence`: exp(−nll), in (0, 1], one over the perplexity.

    The prompt is rendered in the chat template; `model` has to be the unedited one. The completion's text is encoded on
    its own, without special tokens: what ended it is not scored, nor is anything else that generation removed (one that a
    text spells out is). Encoding may split a text otherwise than generation did.

    It misleads: what the model says anyway scores best (its refusals, and words repeated over and over), so that an
    unusual but sound answer scores below. Missing: empty completions, and texts longer than the model's positions.
    """

    def __init__(
        self, model: Model, *, template: Template = "auto", batch: int = 64, max_memory: int | None = None
    ) -> None:
        self.name = "perplexity"
        self.scores = ("coherence", "nll")
        self._model, self._batch, self._max_memory = model, batch, max_memory
        self._chat = uses_chat(model.tokenizer, template)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str]) -> Judged:
        """Likelihood of every completion; no score depends on which others it is judged with, up to rounding."""
        require_one_each(prompts, completions)
        texts = [self._encoded(p, c) for p, c in zip(prompts, completions, strict=True)]
        longest = getattr(self._model.hf.config.get_text_config(), "max_position_embeddings", None) or 2**31
        missing: dict[int, str] = {}
        for i, (prompt, said) in enumerate(texts):
            if blank(completions[i]) or not said:
                missing[i] = EMPTY
            elif len(prompt) + len(said) > longest:
                missing[i] = f"{len(prompt) + len(said)} tokens with the prompt; the model has {longest} positions"
        nll = np.full(len(texts), np.nan)
        # alike in length together: less padding
        rest = sorted((i for i in range(len(texts)) if i not in missing), key=lambda i: (len(texts[i][1]), i))
        while rest:
            here = [rest.pop() for _ in range(min(len(rest), self._rows(len(texts[rest[-1]][1]))))]
            nll[here] = self._nll([texts[i] for i in here])
        for i in np.flatnonzero(~np.isfinite(nll)).tolist():
            missing.setdefault(i, "its likelihood is not finite")
            nll[i] = np.nan
        return Judged({"coherence": np.exp(-nll), "nll": nll}, missing)

    def _encoded(self, prompt: str, completion: str) -> Text:
        tokenizer = self._model.tokenizer
        said = tokenizer(completion, add_special_tokens=False)["input_ids"]
        return render(tokenizer, prompt, chat=self._chat).ids, tuple(said)

    def _rows(self, n_said: int) -> int:
        """Texts at once, none with more than `n_said` tokens: their logits fit into the room there is."""
        room = self._max_memory or room_for_logits(self._model)
        return max(1, min(self._batch, room // (_COPIES * 4 * (n_said + 1) * self._model.shape.d_vocab)))

    def _nll(self, texts: list[Text]) -> Float[np.ndarray, " prompt"]:
        """Mean −log p of each completion's tokens, by one forward pass of left-padded rows."""
        width, kept = max(len(p) + len(s) for p, s in texts), max(len(s) for _, s in texts)
        ids = torch.tensor([[0] * (width - len(p) - len(s)) + [*p, *s] for p, s in texts])
        mask = torch.tensor([[False] * (width - len(p) - len(s)) + [True] * (len(p) + len(s)) for p, s in texts])
        # one column more than the longest completion: its first token is predicted by the prompt's last
        logits = self._model.logits(ids, mask, keep=kept + 1)[:, :-1].float()
        said = ids[:, -kept:].to(logits.device)
        log_p = logits.log_softmax(-1).gather(-1, said[..., None])[..., 0].double().cpu()
        scored = torch.arange(kept) >= kept - torch.tensor([len(s) for _, s in texts])[:, None]
        return (-torch.where(scored, log_p, 0.0).sum(1) / scored.sum(1)).numpy()
