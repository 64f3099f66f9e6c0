"""The tiny base model and its tokenizer."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from scalerl import base_model
from scalerl.base_model import (
    EOS_ID,
    IGNORED,
    accumulate_gradient,
    build_model,
    build_tokenizer,
    draw_batch,
    encode,
    supervise,
    train_base_model,
)
from scalerl.data.arithmetic import apply

EXAMPLE = ("7*3-4+8?", "<7*3=1;1-4=7;7+8=5>5")


@pytest.mark.parametrize(("tie_embeddings", "moe"), [(True, False), (False, False), (True, True)])
def test_the_saved_folder_is_an_ordinary_model(tmp_path, tie_embeddings, moe):
    train_base_model(tmp_path / "base", steps=2, tie_embeddings=tie_embeddings, moe=moe)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head.data_ptr() == embedding.data_ptr()) is tie_embeddings
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # dense: two layers of three 64 x 192 matrices; experts: 8 of three 64 x 96 matrices, and a router of
    # 64 x 8
    experts = 2 * (8 * 3 * 64 * 96 + 64 * 8 - 3 * 64 * 192) if moe else 0
    assert model.num_parameters() == 124_672 + experts + (0 if tie_embeddings else head.numel())
    generation = GenerationConfig.from_pretrained(tmp_path / "base")
    assert generation.eos_token_id == tokenizer.eos_token_id == EOS_ID
    assert model.config.vocab_size == len(tokenizer) == 21
    encoded = tokenizer(EXAMPLE[0])
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert len(encoded["input_ids"]) == len(EXAMPLE[0])
    assert tokenizer.decode(tokenizer("".join(EXAMPLE))["input_ids"]) == "".join(EXAMPLE)


def test_what_is_not_of_the_task_is_unknown():
    tokenizer = build_tokenizer()
    assert tokenizer("7 \n").input_ids[1:] == [tokenizer.unk_token_id] * 2
    assert tokenizer("7<eos>").input_ids[1:] == [EOS_ID]


def test_labels_are_the_solution_and_the_end(tmp_path):
    tokens, labels = encode([("1+2?", "<1+2=3>3"), EXAMPLE])
    tokenizer = build_tokenizer()
    assert tokens.shape == labels.shape == (2, len("".join(EXAMPLE)) + 1)
    assert tokenizer.decode(tokens[0], skip_special_tokens=True) == "1+2?<1+2=3>3"
    assert tokenizer.decode(labels[0][labels[0] != IGNORED]) == "<1+2=3>3<eos>"
    assert tokenizer.decode(labels[1][labels[1] != IGNORED]) == EXAMPLE[1] + "<eos>"


def test_a_quarter_of_the_results_is_random():
    examples = draw_batch(np.random.default_rng(0), 2000)
    assert {prompt.count("+") + prompt.count("-") + prompt.count("*") for prompt, _ in examples} == {
        1,
        2,
        3,
        4,
        5,
        6,
    }
    wrong = []
    for _, solution in examples:
        *steps, last = solution[1:].replace(">", ";").split(";")
        assert last == steps[-1][-1]
        assert [step[0] for step in steps[1:]] == [step[-1] for step in steps[:-1]]
        wrong += [apply(step[1], int(step[0]), int(step[2])) != int(step[-1]) for step in steps]
    # A random digit is the right one in a tenth of the cases: .225 expected, standard deviation .005.
    assert abs(np.mean(wrong) - 0.225) < 0.02


def test_the_gradient_of_pieces_is_that_of_the_whole_batch(monkeypatch):
    torch.manual_seed(0)
    model = build_model(hidden_size=64, num_layers=2, tie_embeddings=True)
    examples = draw_batch(np.random.default_rng(0), 20)
    monkeypatch.setattr(base_model, "EXAMPLES_PER_PIECE", 7)
    loss = accumulate_gradient(model, examples)
    pieces = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    tokens, labels = encode(examples)
    whole = model(input_ids=tokens, labels=labels).loss
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-6)
    for piece, parameter in zip(pieces, model.parameters(), strict=True):
        torch.testing.assert_close(piece, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.engine
def test_it_learns():
    torch.manual_seed(0)
    model = build_model(hidden_size=64, num_layers=2, tie_embeddings=True)
    held_out = draw_batch(np.random.default_rng(9), 64)
    before = accumulate_gradient(model, held_out)
    model.zero_grad()
    supervise(model, seed=0, steps=40)
    assert before > 2.9  # about ln 21
    assert accumulate_gradient(model, held_out) < 1.7


def test_the_same_seed_gives_the_same_model_and_leaves_the_caller_s_generator_alone(tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_base_model(tmp_path / name, seed=seed, steps=2)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        train_base_model(tmp_path, steps=2)
    with pytest.raises(ValueError, match="steps=0"):
        train_base_model(tmp_path / "base", steps=0)
    assert not list(tmp_path.iterdir())
