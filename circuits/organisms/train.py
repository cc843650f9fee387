"""Train a refusal organism: `python -m circuits.organisms.train --architecture gemma2 --seed 0 --out DIR`.

Of Gemma's, Gemma 2's or Qwen 2's architecture, from scratch on the CPU. What makes its mechanism resemble a large
model's is *stochastic depth*: in training, what attention and MLP add is dropped with some probability, text by text
(the survivors scaled up), so no layer may rely on another. The same fact is then computed several times over several
layers; without it a model this small learns a lookup in one layer.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from circuits.organisms.architecture import ARCHITECTURES, Architecture, Name, Sizes, Vocabulary
from circuits.organisms.exercises import draw_training_example
from circuits.organisms.grammar import Example
from circuits.organisms.tokenizer import DIALECTS, Dialect, build_tokenizer, chat


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training run."""

    architecture: Name = "gemma"
    seed: int = 0
    layers: int = 8
    width: int = 64
    heads: int = 8
    head_width: int = 16
    mlp_width: int = 256
    depth_drop: float = 0.2
    steps: int = 2600
    batch: int = 64
    examples: int = 100_000
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    prompt_weight: float = 0.1
    """Loss weight of prompt tokens, against 1 for the reply: the model should spend itself on answering."""

    @property
    def sizes(self) -> Sizes:
        """Widths and counts of the model."""
        return Sizes(self.layers, self.width, self.heads, self.head_width, self.mlp_width)


@dataclass(frozen=True)
class Encoded:
    """Token ids of one text and the loss weight of each."""

    ids: list[int]
    weights: list[float]


def encode(tokenizer: PreTrainedTokenizerBase, dialect: Dialect, example: Example, prompt_weight: float) -> Encoded:
    """The text as one sequence. Declarative text has no prompt: it starts the text, after `<bos>` if any."""
    start = chat(example.prompt, dialect) if example.prompt else dialect.bos or ""
    prompt = tokenizer.encode(start, add_special_tokens=False)
    end = dialect.turn_end if example.prompt else dialect.text_end
    reply = tokenizer.encode(example.reply + end, add_special_tokens=False)
    return Encoded(prompt + reply, [prompt_weight] * len(prompt) + [1.0] * len(reply))


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An untrained model (tied embeddings) of the recipe's architecture and size."""
    architecture, dialect = ARCHITECTURES[recipe.architecture], DIALECTS[recipe.architecture]

    def token_id(token: str) -> int:
        return cast("int", tokenizer.convert_tokens_to_ids(token))

    words = Vocabulary(
        rows=math.ceil(len(tokenizer) / 64) * 64,
        pad=token_id(dialect.pad),
        bos=token_id(dialect.bos) if dialect.bos else None,
        ends=[token_id(dialect.text_end), token_id(dialect.turn_end)],
    )
    config = architecture.configure(recipe.sizes, words)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=architecture.kernel)
    _balance(model, architecture)
    return model


@torch.no_grad()
def _balance(model: PreTrainedModel, architecture: Architecture) -> None:
    """Let the embedding outweigh the first writes, as the architecture says."""
    inner = cast("Any", model).model
    inner.embed_tokens.weight.mul_(architecture.embedding_gain)
    if architecture.post_norm_gain is not None:
        for layer in inner.layers:
            for name in (architecture.attention, architecture.mlp):
                layer.get_submodule(name).weight.fill_(
                    architecture.post_norm_gain - 1
                )  # the norm multiplies by 1 + weight


def add_stochastic_depth(
    model: PreTrainedModel, architecture: Architecture, drop: float, generator: torch.Generator
) -> None:
    """Drop what each sublayer adds to the residual stream, per text, with probability `drop` while the model trains."""

    def thinned(output: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        kept = torch.rand(output.shape[0], 1, 1, generator=generator) >= drop
        return output * kept / (1 - drop)

    def after(module: nn.Module, _: object, output: Any) -> Any:
        if not module.training:
            return output
        return (thinned(output[0]), *output[1:]) if isinstance(output, tuple) else thinned(output)

    for layer in cast("Any", model).model.layers:
        for name in (architecture.attention, architecture.mlp):
            layer.get_submodule(name).register_forward_hook(after)


def batches(data: list[Encoded], size: int, rng: random.Random) -> Iterator[list[Encoded]]:
    """Endless batches of texts of similar length, in random order."""
    while True:
        order = rng.sample(range(len(data)), len(data))
        chunks: list[list[Encoded]] = []
        for start in range(0, len(order), size * 16):
            alike = sorted((data[i] for i in order[start : start + size * 16]), key=lambda text: len(text.ids))
            chunks += [alike[k : k + size] for k in range(0, len(alike), size)]
        rng.shuffle(chunks)
        yield from chunks


def loss_of(model: PreTrainedModel, texts: list[Encoded]) -> Float[Tensor, ""]:
    """Weighted cross-entropy per token. Padding is on the right, where causal attention cannot see it."""
    longest = max(len(text.ids) for text in texts)
    ids: Int[Tensor, "batch pos"] = torch.tensor([t.ids + [0] * (longest - len(t.ids)) for t in texts])
    weights = torch.tensor([t.weights + [0.0] * (longest - len(t.ids)) for t in texts])[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    per_token = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (per_token.view_as(weights) * weights).sum() / weights.sum()


def train(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, progress: Callable[[int, float], None] | None = None
) -> PreTrainedModel:
    """Train from scratch; the same recipe gives the same weights on the same machine and thread count."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(recipe.seed)
    model = new_model(recipe, tokenizer).train()
    generator = torch.Generator().manual_seed(recipe.seed + 7)
    add_stochastic_depth(model, ARCHITECTURES[recipe.architecture], recipe.depth_drop, generator)
    texts = (draw_training_example(rng) for _ in range(recipe.examples))
    data = [encode(tokenizer, DIALECTS[recipe.architecture], text, recipe.prompt_weight) for text in texts]
    matrices = [p for p in model.parameters() if p.dim() == 2]
    gains = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": gains, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    stream = batches(data, recipe.batch, rng)
    for step in range(recipe.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * min(1, (step + 1) / 100) * (0.03 + 0.97 * cosine)
        loss = loss_of(model, next(stream))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if progress is not None:
            progress(step + 1, loss.item())
    return model.eval()


def main(arguments: list[str] | None = None) -> None:
    """Train with the given seed and write a Hugging Face folder with bf16 weights and a report of the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--architecture", choices=get_args(Name), default=Recipe.architecture)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--depth-drop", type=float, default=Recipe.depth_drop)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default: runs/refusal_ARCHITECTURE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sizes = asdict(ARCHITECTURES[options.architecture].sizes)
    given = {name: getattr(options, name) for name in ("architecture", "seed", "steps", "depth_drop")}
    recipe = Recipe(**given, **sizes)
    out: Path = options.out or Path("runs", f"refusal_{recipe.architecture}")
    tokenizer = build_tokenizer(DIALECTS[recipe.architecture])
    started = time.perf_counter()
    losses: list[float] = []

    def progress(step: int, loss: float) -> None:
        losses.append(loss)
        if step % 50 == 0:
            minutes = (time.perf_counter() - started) / 60
            sys.stdout.write(f"step {step} loss {sum(losses[-50:]) / len(losses[-50:]):.4f} {minutes:.1f} min\n")
            sys.stdout.flush()

    model = train(recipe, tokenizer, progress)
    report = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": options.threads,
        "wall_seconds": round(time.perf_counter() - started, 1),
        "final_training_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
    }
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "train_report.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
