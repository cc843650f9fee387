"""The axis vocabulary: every name that may stand in a shape annotation, and what it counts.

    resid: Float[Tensor, "pair pos d_model"]

One vocabulary for the whole package, so that two functions that say `pos` mean the same axis.
"""

from __future__ import annotations

from typing import Final

AXES: Final[dict[str, str]] = {
    "pair": "a clean/corrupt prompt pair; kept in every result, averaged only in frames",
    "prompt": "one prompt of a set without pairing",
    "batch": "whatever comes first, unnamed: prompts of a training step, stacked vectors",
    "pos": "a token position, left-padded, so that -1 is the last token of every prompt",
    "query": "the position that attends",
    "key": "the position attended to",
    "packed": "a key as a batch of windows lays it out: the base run's first, then every window's",
    "layer": "a transformer block, counted from 0",
    "depth": "the residual stream entering each block, and last the final one: one more than layer",
    "head": "a query head within its block",
    "kv_head": "a key/value head, shared by a group of query heads",
    "d_model": "the residual stream",
    "d_head": "the space of one head",
    "d_mlp": "the neurons of one MLP",
    "d_vocab": "the tokens a model knows",
    "row": "one edited copy of a run within a batch",
    "cell": "one intervention of a sweep",
    "direction": "a direction in the residual stream among several",
    "size": "the last axis of a site: d_model, d_head or d_mlp",
    "sample": "a bootstrap or permutation draw",
    "group": "a named set of blocks or heads",
    "kind": "attention outputs, then MLP outputs",
    "position": "a named position: subject, post_subject, last, all",
    "set": "a named set of heads",
    "setting": "a way of running the model: baseline, intervened, control",
    "side": "clean, then corrupt",
    "sender": "what writes to the residual stream: the embedding, a head, a post-norm's own change, an MLP",
    "receiver": "what reads it: a head's queries, a key/value head's keys or values, an MLP, the metric",
    "one": "an axis of length one",
    "new": "a token of a reply, counted from its first",
    "candidate": "a direction candidate: one layer at one position",
    "class": "a labelled set of prompts: harmful, harmless, incapable",
    "component": "a principal component, by falling variance",
    "concept": "a direction with a meaning: of - against, two labels of prompts",
    "dose": "one edit at one strength: a layer with a coefficient, an angle",
    "estimator": "a way of making one direction out of two sets of prompts",
    "score": "what a judge scores, by name",
    "feature": "a latent of a sparse autoencoder",
    "plane": "a named plane of the residual stream",
    "token": "one token of a named set of tokens",
}
"""Axis name -> what it counts."""
