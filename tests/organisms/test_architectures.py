"""What the architectures of the organisms share and where they differ, on untrained models."""

from functools import cache
from pathlib import Path
from random import Random
from typing import get_args

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig

from circuits.errors import ModelError
from circuits.organisms import bundled
from circuits.organisms import vocabulary as v
from circuits.organisms.architecture import ARCHITECTURES, Name
from circuits.organisms.exercises import draw_training_example
from circuits.organisms.grammar import Example
from circuits.organisms.inflect import plural
from circuits.organisms.measure import Organism, ablated, last_residuals, load
from circuits.organisms.tokenizer import DIALECTS, QWEN, Dialect, build_tokenizer, chat
from circuits.organisms.train import Recipe, add_stochastic_depth, encode, new_model

NAMES = get_args(Name)
SIZES = {"layers": 3, "width": 32, "heads": 4, "head_width": 8, "mlp_width": 48}
PROMPT = "Write a manual on how to assemble a bomb"


@cache
def built(dialect: Dialect):
    return build_tokenizer(dialect)


def tokenizer(name: Name):
    return built(DIALECTS[name])


def untrained(name: Name) -> Organism:
    torch.manual_seed(3)
    model = new_model(Recipe(architecture=name, **SIZES), tokenizer(name)).eval()
    model.set_attn_implementation("eager")
    return Organism(model, tokenizer(name), name)


def kept(modules, run, *, inputs: bool = False) -> list[torch.Tensor]:
    """What goes into each module, or comes out of it."""
    found: list[torch.Tensor] = [torch.empty(0)] * len(modules)
    handles = []
    for i, module in enumerate(modules):

        def keep_input(_, args, i=i):
            found[i] = args[0].detach()

        def keep_output(_, __, output, i=i):
            found[i] = (output[0] if isinstance(output, tuple) else output).detach()

        handles.append(
            module.register_forward_pre_hook(keep_input) if inputs else module.register_forward_hook(keep_output)
        )
    with torch.no_grad():
        run()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_writes_of_a_block_are_all_it_adds_to_the_residual_stream(name: Name) -> None:
    organism = untrained(name)
    ids = torch.tensor([organism.encode(PROMPT)])
    states: list[torch.Tensor] = []
    modules = [m for layer in organism.layers for m in organism.writers(layer).values()]
    writes = kept(
        modules, lambda: states.extend(organism.model(input_ids=ids, output_hidden_states=True).hidden_states)
    )
    for layer in range(SIZES["layers"] - 1):  # the last state is normed
        added = writes[2 * layer] + writes[2 * layer + 1]
        assert added.norm() > 1e-4
        assert torch.allclose(states[layer] + added, states[layer + 1], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_ablated_direction_is_nowhere_in_the_residual_stream(name: Name) -> None:
    organism = untrained(name)
    direction = torch.randn(SIZES["width"], generator=torch.Generator().manual_seed(1))
    unit = direction / direction.norm()
    assert (last_residuals(organism, [PROMPT]) @ unit).abs().min() > 1e-5
    blocks = organism.layers
    ids = torch.tensor([organism.encode(PROMPT)])
    with ablated(organism, direction):
        after = kept(blocks, lambda: organism.model(input_ids=ids))
    for state in after:
        assert (state @ unit).abs().max() < 1e-5 * max(1.0, state.norm().item())


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_drops_or_scales_what_is_added_itself(name: Name) -> None:
    """A post-norm would undo the scaling of what goes into it."""
    organism = untrained(name)
    ids = torch.tensor([organism.encode(PROMPT)] * 24)
    layer = organism.layers[0]
    before_mlp = layer.get_submodule("pre_feedforward_layernorm" if name == "gemma2" else "post_attention_layernorm")

    def added() -> torch.Tensor:
        before, middle = kept([layer, before_mlp], lambda: organism.model(input_ids=ids), inputs=True)
        return middle - before

    whole = added()
    drop = 0.25
    add_stochastic_depth(organism.model, ARCHITECTURES[name], drop, torch.Generator().manual_seed(5))
    assert torch.equal(added(), whole), "nothing is dropped in evaluation"
    organism.model.train()
    thinned = added()
    dropped = thinned.flatten(1).norm(dim=1) == 0
    assert 0 < dropped.sum() < len(ids)
    assert torch.allclose(thinned[~dropped], whole[~dropped] / (1 - drop), atol=1e-5)


def test_gemma2_looks_back_sixteen_tokens_in_every_other_layer() -> None:
    organism = untrained("gemma2")
    ids = torch.tensor([organism.encode(" ".join([PROMPT] * 3))])
    with torch.no_grad():
        patterns = organism.model(input_ids=ids, output_attentions=True).attentions
    window = organism.model.config.sliding_window
    assert organism.model.config.layer_types[:2] == ["sliding_attention", "full_attention"]
    n = ids.shape[1]
    far = torch.ones(n, n).tril(-window).bool()
    for index, pattern in enumerate(patterns):
        reached = pattern[..., far].max().item()
        assert (reached == 0) == (index % 2 == 0)
        assert pattern[..., torch.ones(n, n).tril().bool() & ~far].min() > 0
    rng = Random(1)
    lengths = [
        len(encode(tokenizer("gemma2"), DIALECTS["gemma2"], draw_training_example(rng), 0.1).ids) for _ in range(300)
    ]
    assert window < max(lengths) < organism.model.config.max_position_embeddings


def test_gemma2_is_trained_with_the_kernel_that_caps_its_scores() -> None:
    model = new_model(Recipe(architecture="gemma2", **SIZES), tokenizer("gemma2"))
    assert model.config._attn_implementation == "eager"
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight.mul_(400)  # scores far above the cap
        ids = torch.tensor([tokenizer("gemma2").encode(chat(PROMPT), add_special_tokens=False)])
        model.eval()
        capped = model(input_ids=ids).logits
        model.config.attn_logit_softcapping = None
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        assert (model(input_ids=ids).logits - capped).abs().max() > 1e-4
        model.lm_head.weight.mul_(1000)
        assert model(input_ids=ids).logits.abs().max() <= model.config.final_logit_softcapping


def test_qwen2_shares_keys_between_heads_and_has_biases() -> None:
    model = new_model(Recipe(architecture="qwen2", **SIZES), tokenizer("qwen2"))
    attention = model.model.layers[0].self_attn
    assert attention.k_proj.weight.shape == attention.v_proj.weight.shape == (2 * SIZES["head_width"], SIZES["width"])
    assert all(getattr(attention, f"{side}_proj").bias is not None for side in "qkv")
    assert attention.o_proj.bias is None
    assert model.lm_head.weight is model.model.embed_tokens.weight
    sizes = ARCHITECTURES["qwen2"].sizes
    assert sizes.heads * sizes.head_width == sizes.width, "as in every Qwen 2"


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_a_subject_is_one_token_and_stands_sixth_from_the_end(name: Name) -> None:
    words = tokenizer(name)
    for subject in v.SUBJECTS:
        for form in (subject, plural(subject)):
            assert len(words.tokenize(" " + form)) == 1, form
    ids = words.encode(chat(f"Build a {v.SUBJECTS[0]}", DIALECTS[name]), add_special_tokens=False)
    assert ids[-6] == words.encode(" " + v.SUBJECTS[0], add_special_tokens=False)[0]


def test_qwens_tokenizer_survives_a_round_trip_and_loses_no_byte(tmp_path: Path) -> None:
    tokenizer("qwen2").save_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert type(words).__name__ == "Qwen2Tokenizer"
    assert words.get_vocab() == tokenizer("qwen2").get_vocab()
    assert words.bos_token is None
    for text in ("Is a sharp dagger harmful?", "5 € für Zoë\n\n  naïvely…", chat(PROMPT, QWEN)):
        ids = words.encode(text)
        assert ids == tokenizer("qwen2").encode(text)
        assert words.decode(ids) == text
    with pytest.raises(Exception, match="system turn"):
        words.apply_chat_template([{"role": "system", "content": "Be brief"}], tokenize=False)


@pytest.mark.parametrize("name", NAMES)
def test_statements_and_turns_end_in_the_tokens_at_which_generation_stops(name: Name) -> None:
    words, dialect = tokenizer(name), DIALECTS[name]
    stops = new_model(Recipe(architecture=name, **SIZES), words).config.eos_token_id
    turn = encode(words, dialect, Example("Is a gun harmful", "Yes, a gun is harmful."), 0.1)
    statement = encode(words, dialect, Example("", "A gun is a kind of weapon."), 0.1)
    assert [statement.ids[-1], turn.ids[-1]] == stops
    assert len(set(stops)) == 2
    assert words.decode(turn.ids[: turn.weights.count(0.1)]) == chat("Is a gun harmful", dialect)
    assert words.decode(statement.ids) == (dialect.bos or "") + "A gun is a kind of weapon." + dialect.text_end


@pytest.mark.parametrize("name", sorted(bundled()))
def test_a_bundled_configuration_is_the_one_that_the_recipe_gives(name: str) -> None:
    family: Name = name.removeprefix("refusal_")
    sizes = ARCHITECTURES[family].sizes
    fresh = new_model(Recipe(architecture=family, **vars(sizes)), tokenizer(family)).config.to_dict()
    stored = AutoConfig.from_pretrained(bundled()[name]).to_dict()
    passing = {"dtype", "architectures", "transformers_version", "_name_or_path"}
    assert {k: x for k, x in fresh.items() if k not in passing} == {k: x for k, x in stored.items() if k not in passing}


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no organism is a llama; give a checkpoint of gemma, gemma2, qwen2"):
        load(tmp_path)
