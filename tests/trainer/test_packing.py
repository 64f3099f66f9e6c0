"""Packing: nothing lost, nothing twice, within the budget, equally many micro-batches a rank; and a packed
forward pass equals separate ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from scalerl.trainer.packing import TrainingSequence, micro_batch, pack, pack_rows


def sequence(num_tokens: int, num_prompt_tokens: int = 1, first_token: int = 0) -> TrainingSequence:
    loss_positions = np.arange(num_prompt_tokens, num_tokens)
    return TrainingSequence(
        tokens=np.arange(first_token, first_token + num_tokens),
        loss_positions=loss_positions,
        generator_logprobs=np.zeros(len(loss_positions), dtype=np.float32),
        advantage=1.0,
        weight=1.0,
    )


def test_first_fit_decreasing_by_hand():
    # inputs are one fewer than tokens: 5, 4, 3, 2, 1 into rows of 6 -> 5+1, 4+2, 3
    rows = pack_rows([sequence(length + 1) for length in (3, 1, 5, 2, 4)], row_length=6)
    assert [[item.num_inputs for item in row] for row in rows] == [[5, 1], [4, 2], [3]]


def test_the_tensors_of_a_micro_batch_by_hand():
    first = TrainingSequence(
        tokens=np.array([10, 11, 12, 13]),
        loss_positions=np.array([2, 3]),
        generator_logprobs=np.array([-1.0, -2.0], dtype=np.float32),
        advantage=0.5,
        weight=0.25,
    )
    second = TrainingSequence(  # the forced token 22 is no loss token
        tokens=np.array([20, 21, 22, 23]),
        loss_positions=np.array([1, 3]),
        generator_logprobs=np.array([-3.0, -4.0], dtype=np.float32),
        advantage=-1.0,
        weight=0.125,
    )
    batch = micro_batch([[first, second], [first]])
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 22], [10, 11, 12, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2]]
    assert batch.predictors.tolist() == [1, 2, 3, 5, 7, 8]
    assert batch.targets.tolist() == [12, 13, 21, 23, 12, 13]
    assert batch.generator_logprobs.tolist() == [-1.0, -2.0, -3.0, -4.0, -1.0, -2.0]
    assert batch.advantages.tolist() == [0.5, 0.5, -1.0, -1.0, 0.5, 0.5]
    assert batch.weights.tolist() == [0.25, 0.25, 0.125, 0.125, 0.25, 0.25]
    assert batch.sequence_ids.tolist() == [0, 0, 1, 1, 2, 2]


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60),
    budget_tokens=st.integers(40, 200),
    world_size=st.integers(1, 5),
    layout=st.sampled_from(["one_row", "rows", "alone"]),
)
def test_every_token_goes_to_exactly_one_rank(lengths, budget_tokens, world_size, layout):
    first_tokens = np.cumsum([1, *lengths])
    sequences = [
        sequence(length, first_token=int(first)) for length, first in zip(lengths, first_tokens, strict=False)
    ]
    ranks = [
        pack(sequences, budget_tokens=budget_tokens, layout=layout, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    assert all(batch.input_ids.numel() <= budget_tokens for batch in batches)
    real = [batch for batch in batches if batch.weights.any()]
    targets = sorted(token for batch in real for token in batch.targets.tolist())
    assert targets == sorted(token for item in sequences for token in item.tokens[1:].tolist())
    # tokens count up within a sequence, so the predictor of a token holds the token before it
    for batch in real:
        assert torch.equal(batch.input_ids.flatten()[batch.predictors], batch.targets - 1)


@given(num_sequences=st.integers(1, 40), world_size=st.integers(1, 5))
def test_ranks_are_balanced_to_one_row(num_sequences, world_size):
    sequences = [sequence(11)] * num_sequences
    ranks = [
        pack(sequences, budget_tokens=30, layout="rows", rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for batches in zip(*ranks, strict=True):
        num_rows = [len(batch.input_ids) if batch.weights.any() else 0 for batch in batches]
        assert max(num_rows) - min(num_rows) <= 1


def test_more_ranks_than_rows_get_dummies_of_no_weight():
    batches = [
        pack([sequence(5)], budget_tokens=8, layout="rows", rank=rank, world_size=3) for rank in range(3)
    ]
    assert [len(share) for share in batches] == [1, 1, 1]
    assert [share[0].weights.sum().item() for share in batches] == [4.0, 0.0, 0.0]
    assert [share[0].input_ids.shape for share in batches[1:]] == [(1, 3), (1, 3)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_forward_equals_separate_ones(attention):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attn_implementation=attention,
    )
    model = Qwen3ForCausalLM(config).eval()
    random = np.random.default_rng(0)
    tokens = [random.integers(0, 50, size=length) for length in (9, 2, 4, 13, 6)]
    sequences = [
        TrainingSequence(
            tokens=ids,
            loss_positions=np.arange(1, len(ids)),
            generator_logprobs=np.zeros(len(ids) - 1, dtype=np.float32),
            advantage=1.0,
            weight=1.0,
        )
        for ids in tokens
    ]
    rows = pack_rows(sequences, row_length=12)
    assert sorted(len(row) for row in rows) == [1, 1, 3]  # a full row, one with padding, a packed one
    batch = micro_batch(rows)
    with torch.no_grad():
        packed = model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).logits.flatten(0, 1)
        separate = [
            model(input_ids=torch.from_numpy(item.tokens[None, :-1])).logits[0]
            for row in rows
            for item in row
        ]
    assert torch.allclose(packed[batch.predictors], torch.cat(separate), atol=1e-5)
