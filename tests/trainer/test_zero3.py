"""The real engine, ZeRO-3 over gloo on one and two ranks, against plain PyTorch in one process; and its
checkpoints, bit for bit."""

import numpy as np
import pytest
import torch
from processes import output, start_ranks, wait
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from zero3_cases import (
    CASES,
    LEARNING_RATES,
    NUM_EXPERTS,
    ROTARY_MODELS,
    make_config,
    make_groups,
    model_name,
    save_models,
)

from scalerl.trainer.model.buffers import check_buffers, plain_buffers, restore_buffers

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """Return a folder in which two ranks, then one, have run all cases of zero3_worker.py."""
    folder = tmp_path_factory.mktemp("zero3")
    save_models(folder)
    worker = __file__.replace("test_zero3.py", "zero3_worker.py")
    for world_size in (2, 1):
        log = folder / f"log-{world_size}"
        codes = wait(start_ranks([worker, str(folder)], world_size, log))
        assert codes == [0] * world_size, output(log)
        assert f"trainer-0: gloo, {world_size} ranks meet at" in output(log)
    return folder


def results(folder, world_size):
    return torch.load(folder / f"results-{world_size}.pt", weights_only=True)


def exported(folder, name, world_size):
    return load_file(folder / f"{name}-{world_size}" / "model.safetensors")


def objective(model, groups, algo):
    """Return the loss of a batch: one unpadded forward pass a completion, straight from the formulas of the
    paper."""
    rewards = np.array([[rollout.reward for rollout in group] for group in groups])
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    kept = [index for index in range(len(groups)) if algo.zero_variance == "keep" or rewards[index].std() > 0]
    scale = {
        "batch": centred[kept].std(),
        "none": 1.0,
        "prompt": np.maximum(rewards.std(axis=1, keepdims=True), 1e-9),
    }
    advantages = centred / scale[algo.advantage_norm]
    prompts = []
    for index in kept:
        losses = []
        for rollout, advantage in zip(groups[index], advantages[index], strict=True):
            mask = torch.from_numpy(rollout.loss_mask)
            if mask.any():
                losses.append(token_losses(model, rollout, advantage, algo)[mask])
        prompts.append(losses)
    completions = [loss for losses in prompts for loss in losses]
    return {
        "prompt": lambda: torch.stack([torch.cat(losses).mean() for losses in prompts]).mean(),
        "sample": lambda: torch.stack([loss.mean() for loss in completions]).mean(),
        "token": lambda: torch.cat(completions).mean(),
    }[algo.loss_aggregation]()


def token_losses(model, rollout, advantage, algo):
    tokens = torch.from_numpy(np.concatenate([rollout.prompt_token_ids, rollout.completion_token_ids]))[None]
    logits = model(input_ids=tokens).logits[0, len(rollout.prompt_token_ids) - 1 : -1] / algo.temperature
    logprobs = (
        logits.log_softmax(dim=-1).gather(-1, tokens[0, len(rollout.prompt_token_ids) :, None]).squeeze(-1)
    )
    log_ratios = logprobs - torch.from_numpy(rollout.logprobs)
    if algo.loss_type == "cispo":
        return -log_ratios.detach().exp().clamp(max=algo.cispo_eps_max) * advantage * logprobs
    low, high = algo.dapo_eps_low, algo.dapo_eps_high
    if algo.loss_type == "gspo":
        low, high = algo.gspo_eps_low, algo.gspo_eps_high
        log_ratios = log_ratios[torch.from_numpy(rollout.loss_mask)].mean().expand(len(logprobs))
    ratios = log_ratios.exp()
    return -torch.minimum(ratios * advantage, ratios.clamp(1 - low, 1 + high) * advantage)


@pytest.fixture(scope="module")
def reference(worked):
    """Train every case in plain PyTorch: {case: ([(loss, gradient norm) a step], weights after the last as
    Transformers saves them)}."""
    answers = {}
    for case in CASES:
        config = make_config(case, 1)
        model = AutoModelForCausalLM.from_pretrained(worked / model_name(case), dtype=torch.float32)
        settings = config.optimizer
        betas = (settings.beta1, settings.beta2)
        adamw = torch.optim.AdamW(
            model.parameters(), betas=betas, eps=settings.eps, weight_decay=settings.weight_decay
        )
        steps = []
        for step, learning_rate in enumerate(LEARNING_RATES):
            adamw.param_groups[0]["lr"] = learning_rate
            loss = objective(model, make_groups(step), config.algo)
            adamw.zero_grad()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            adamw.step()
            steps.append((loss.item(), norm.item()))
        model.save_pretrained(worked / f"reference-{case}")
        answers[case] = (steps, load_file(worked / f"reference-{case}" / "model.safetensors"))
    return answers


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_weights_do_not_depend_on_ranks_or_micro_batches(
    worked, reference, case, world_size
):
    steps, weights = reference[case]
    found = results(worked, world_size)[case]
    assert [step["loss"] for step in found] == pytest.approx([loss for loss, _ in steps], abs=1e-5)
    assert [step["grad_norm"] for step in found] == pytest.approx(
        [norm for _, norm in steps], rel=1e-4, abs=1e-5
    )
    assert all(norm > 0.05 for _, norm in steps)  # so that clipping is part of the comparison
    exports = exported(worked, case, world_size)
    assert exports.keys() == weights.keys()
    for name, weight in weights.items():
        assert torch.allclose(exports[name], weight, atol=1e-5), name


def test_experts_are_exported_one_by_one_and_count_as_far_as_a_token_meets_them(worked):
    weights = exported(worked, "moe", 2)
    experts = {name: weight for name, weight in weights.items() if ".experts." in name}
    assert "model.layers.1.mlp.experts.7.down_proj.weight" in experts
    assert {tuple(weight.shape) for weight in experts.values()} == {(32, 32)}  # gate_proj, up_proj, down_proj
    assert len(experts) == 2 * NUM_EXPERTS * 3
    others = sum(weight.numel() for name, weight in weights.items() if name not in experts)
    assert results(worked, 2)["moe-active"] == others + 2 * 2 * 3 * 32 * 32
    dense = exported(worked, "one_micro_batch", 2)
    assert results(worked, 2)["one_micro_batch-active"] == sum(weight.numel() for weight in dense.values())


def test_statistics_do_not_depend_on_ranks_or_micro_batches(worked):
    first = results(worked, 1)["one_micro_batch"]
    assert first[0]["clip_fraction"] == 0
    assert 0 < results(worked, 1)["untied"][0]["clip_fraction"] < 1
    for world_size, case in ((1, "many_micro_batches"), (2, "one_micro_batch"), (2, "many_micro_batches")):
        for step, other in zip(first, results(worked, world_size)[case], strict=True):
            assert other == pytest.approx(step, abs=1e-5)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("name", ROTARY_MODELS)
def test_every_floating_buffer_of_a_bf16_model_equals_that_of_a_plain_load(worked, name, world_size):
    plain = AutoModelForCausalLM.from_pretrained(worked / name, dtype=torch.bfloat16)
    expected = {key: buffer for key, buffer in plain.named_buffers() if buffer.is_floating_point()}
    found = results(worked, world_size)[f"buffers-{name}"]
    assert found.keys() == expected.keys()
    for key, buffer in expected.items():
        assert found[key].dtype == buffer.dtype and torch.equal(found[key], buffer), key
    frequencies = [buffer for key, buffer in found.items() if key.endswith("inv_freq")]
    assert frequencies and all(buffer.dtype == torch.float32 for buffer in frequencies)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_nan_on_one_rank_skips_the_step_on_all_and_leaves_no_trace(worked, dtype, world_size):
    """The case of many micro-batches, which equals the reference, is what comes after it."""
    found = results(worked, world_size)
    assert found[f"poisoned-{dtype}"] == {"applied": False, "finite": False, "adam_step": 0}
    before = load_file(worked / "tied" / "model.safetensors")
    for name, weight in exported(worked, f"poisoned-{dtype}", world_size).items():
        assert torch.equal(weight, before[name].to(weight.dtype)), name


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_is_bit_exact(worked, dtype, world_size):
    straight, resumed = (exported(worked, f"{name}-{dtype}", world_size) for name in ("straight", "resumed"))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert next(iter(straight.values())).dtype == getattr(torch, dtype)
    assert results(worked, world_size)[f"resumed-{dtype}"] == {"adam_step": 2}


def test_resume_with_fewer_ranks(worked):
    straight = exported(worked, "straight-float32", 2)
    for name, weight in exported(worked, "fewer-ranks", 1).items():
        assert torch.allclose(weight, straight[name], atol=1e-6), name


def test_checkpoints_hold_no_pickle(worked):
    files = {
        path.name
        for path in (worked / "run-float32-2" / "checkpoints" / "00000002").rglob("*")
        if path.is_file()
    }
    expected = {
        "state.json",
        "rank_00000.safetensors",
        "rank_00001.safetensors",
        "model.safetensors",
        "config.json",
    }
    assert expected <= files <= expected | {"generation_config.json"}


def test_a_rounded_buffer_is_refused(tmp_path):
    save_models(tmp_path)
    plain = plain_buffers(tmp_path / "tied", torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tied", dtype=torch.bfloat16)
    check_buffers(model, plain)
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.bfloat16()
    with pytest.raises(
        ValueError, match=r"rotary_emb\.inv_freq \(torch\.bfloat16\) differs from a plain load"
    ):
        check_buffers(model, plain)
    restore_buffers(model, plain)
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
