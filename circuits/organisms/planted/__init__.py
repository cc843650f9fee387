"""Planted circuits: small Hugging Face models written by hand, so that what every method ought to find is known.

    truth = write("gpt2", "planted")            # a checkpoint, its tokenizer, pairs.csv and truth.json
    model = load("planted")
    tokens = pairs().tokenize(model)            # pairs, answers and the wrong answers that drive it
    truth.node("L2.H0").role                    # "mover"
    truth.relation("L2.H0", "L3.H1")            # "backup"

Reading order: `circuit` (the components, in features of the residual stream), `prompts` (words and pairs), `ideal` (the
circuit as arithmetic, with nothing of a transformer in it), `truth` (what follows from it), `spaces` (features as
directions that norms leave alone), `weights` (the same circuit as weights of GPT-2 and Gemma 2), `checkpoint`.
"""

from circuits.organisms.planted.checkpoint import write
from circuits.organisms.planted.circuit import KINDS, Kind
from circuits.organisms.planted.prompts import pairs
from circuits.organisms.planted.truth import Edge, Node, Relation, Truth, truth

__all__ = ["KINDS", "Edge", "Kind", "Node", "Relation", "Truth", "pairs", "truth", "write"]
