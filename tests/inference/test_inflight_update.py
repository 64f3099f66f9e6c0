"""Log-probabilities and policy versions across in-flight updates, against Hugging Face in fp32."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from stale_kv_replay import errors, load_model, replay

from scalerl.config import LengthConfig
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.prompts import load_tokenizer

ONE_PHASE = LengthConfig(
    max_prompt_tokens=100, max_thinking_tokens=100, max_solution_tokens=40, length_control="none"
)
PROMPTS = ["7*3-4+8?", "1+1?", "9-9*3+0*2-7+5?"]
UPDATES = {20: 1, 33: 0, 47: 1}
"""Engine step -> policy loaded after it."""


def sample(engine, folders, updates, copies=8, length=ONE_PHASE):
    tokenizer = load_tokenizer(folders[0])
    sampler = CompletionSampler(engine, tokenizer, length, seed=0)
    for index, prompt in enumerate(PROMPTS):
        for copy in range(copies):
            sampler.submit((index, copy), tokenizer(prompt)["input_ids"])
    finished, step = [], 0
    while sampler.num_running:
        finished += sampler.step()
        step += 1
        if step in updates:
            engine.reload(folders[updates[step]], policy_version=updates[step])
    assert len(finished) == len(PROMPTS) * copies
    return finished


def test_fp32_head_on_a_bf16_body(open_engine, policies, tmp_path):
    # without attention and MLP the body is exact: embedding and norm, so that only the head's precision is
    # left to differ
    model = load_model(policies["untied"][0])
    for name, parameter in model.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter.data.zero_()
    folder = tmp_path / "00000000-cccccccccccc"
    model.save_pretrained(folder)
    load_tokenizer(policies["untied"][0]).save_pretrained(folder)

    body = load_model(folder, torch.bfloat16)
    largest = {}
    for fp32_head in (True, False):
        with open_engine(folder, dtype="bfloat16", fp32_head=fp32_head) as engine:
            finished = sample(engine, [folder], updates={})
        for precision, reference in (("fp32", {0: Fp32Head(body)}), ("bf16", {0: body})):
            difference = max(
                errors(replay(reference, completion), completion).max() for completion in finished
            )
            largest[fp32_head, precision] = difference.item()
    assert max(largest[True, "fp32"], largest[False, "bf16"]) < 1e-4, largest
    assert min(largest[True, "bf16"], largest[False, "fp32"]) > 1e-3, largest


class Fp32Head(torch.nn.Module):
    """A bf16 Hugging Face model whose logits are computed in fp32."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, token_ids, **kwargs):
        output = self.model.model(token_ids, **kwargs)
        logits = torch.nn.functional.linear(
            output.last_hidden_state.float(), self.model.lm_head.weight.float()
        )
        output.logits = logits
        return output


@pytest.mark.parametrize(("kind", "temperature"), [("untied", 0.7), ("moe", 1.0), ("tied", 1.0)])
def test_logprobs_and_versions_across_updates(open_engine, policies, kind, temperature):
    folders = policies[kind]
    models = {version: load_model(folder) for version, folder in enumerate(folders)}

    def error(completion, models=models, temperature=temperature):
        return errors(replay(models, completion, temperature), completion).max()

    with open_engine(folders[0], temperature=temperature) as engine:
        before = sample(engine, folders, updates={})
        across = sample(engine, folders, updates=UPDATES)
    assert all(set(completion.policy_versions) == {0} for completion in before)
    assert max(error(completion) for completion in before) < 1e-4

    # all requests run from the first step on and get one token a step: token t comes from step t
    expected = [0] * 20 + [1] * 13 + [0] * 14 + [1] * 93
    for completion in across:
        assert completion.policy_versions == expected[: len(completion.token_ids)]
    crossed = [completion for completion in across if len(completion.token_ids) > 47]
    assert len(crossed) >= 4, "the test needs completions that lived through all three updates"
    assert max(error(completion) for completion in across) < 1e-4

    # what the checks above would miss if all of this made no difference: another temperature, one policy
    # throughout, and spans off by one token
    assert max(error(completion, temperature=1.7 - temperature) for completion in before) > 0.1
    one_policy = dict.fromkeys(models, models[0])
    assert min(error(completion, models=one_policy) for completion in crossed) > 0.1
    for completion in crossed:
        completion.policy_versions[1:] = completion.policy_versions[:-1]
    assert min(error(completion) for completion in crossed) > 0.01


def test_new_requests_do_not_reuse_the_prefix_of_an_old_policy(policies, tied_engine):
    engine, folders = tied_engine, policies["tied"]
    models = {version: load_model(folder) for version, folder in enumerate(folders)}
    tokenizer = load_tokenizer(folders[0])
    prompt = tokenizer("1+2*3-4+5*6-7+8*9-" * 5 + "0?")["input_ids"]  # spans two full cache blocks

    def one(sampler):
        sampler.submit(0, prompt)
        finished = []
        while sampler.num_running:
            finished += sampler.step()
        return finished[0]

    sampler = CompletionSampler(engine, tokenizer, ONE_PHASE, seed=0)
    engine.reload(folders[0], 0)
    old = one(sampler)
    engine.reload(folders[1], 1)
    new = one(sampler)
    assert (set(old.policy_versions), set(new.policy_versions)) == ({0}, {1})
    assert errors(replay(models, new), new).max() < 1e-4

    # the trap is real: under the old salt the engine takes the old policy's cache for the prompt
    engine.submit("trap", prompt, max_tokens=40, cache_salt=folders[0].name)
    segments = []
    while engine.num_running:
        segments += engine.step()
    new.token_ids[:] = segments[0].token_ids
    new.logprobs[:] = segments[0].logprobs
    new.policy_versions[:] = [1] * len(new.token_ids)
    new.loss_mask[:] = [True] * len(new.token_ids)
    assert errors(replay(models, new), new).max() > 0.01


def test_a_vanished_folder_leaves_the_engine_as_it_was(policies, tied_engine, tmp_path):
    engine, folders = tied_engine, policies["tied"]
    engine.reload(folders[0], 0)
    with pytest.raises(FileNotFoundError, match="00000007"):
        engine.reload(tmp_path / "00000007-aaaaaaaaaaaa", 7)
    assert (engine.policy_name, engine.policy_version) == (folders[0].name, 0)
    (completion, *_) = sample(engine, folders, updates={}, copies=1)
    assert errors(replay({0: load_model(folders[0])}, completion), completion).max() < 1e-4


def without_a_tensor(tensors):
    del tensors["model.layers.1.mlp.down_proj.weight"]


def with_another_name(tensors):
    tensors["model.layers.9.mlp.down_proj.weight"] = tensors.pop("model.layers.1.mlp.down_proj.weight")


def with_another_shape(tensors):
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_tensor, r"model.layers.1.mlp.down_proj.weight is missing, not F32 \[64, "),
        (with_another_name, r"layers.1.mlp.down_proj.weight is missing, .*layers.9.* not there"),
        (with_another_shape, r"model.norm.weight is F32 \[63\], not F32 \[64\]"),
    ],
)
def test_a_policy_of_other_tensors_is_refused_before_any_is_loaded(
    policies, tied_engine, tmp_path, change, message
):
    engine, folders = tied_engine, policies["tied"]
    engine.reload(folders[0], 0)
    broken = tmp_path / "00000001-bbbbbbbbbbbb"
    shutil.copytree(folders[1], broken)
    tensors = load_file(broken / "model.safetensors")
    change(tensors)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        engine.reload(broken, 1)
    assert (engine.policy_name, engine.policy_version) == (folders[0].name, 0)
    (completion, *_) = sample(engine, folders, updates={}, copies=1)
    assert errors(replay({0: load_model(folders[0])}, completion), completion).max() < 1e-4


def test_a_model_that_vllm_takes_for_an_embedding_model_is_refused(open_engine, policies, tmp_path):
    folder = tmp_path / "00000000-eeeeeeeeeeee"
    shutil.copytree(policies["tied"][0], folder)
    settings = json.loads((folder / "config.json").read_text())
    del settings["architectures"]
    (folder / "config.json").write_text(json.dumps(settings))
    with (
        pytest.raises(ValueError, match="of pooling, not to generate: check `architectures`"),
        open_engine(folder),
    ):
        pass


def test_a_worker_that_serves_another_policy_is_noticed(policies, tied_engine, monkeypatch):
    def answer(method, args=()):
        return ["00000000-000000000000"] if method == "served_policy" else [None]

    monkeypatch.setattr(tied_engine._engine, "collective_rpc", answer)
    with pytest.raises(RuntimeError, match=r"was given the policy 00000001.*serve"):
        tied_engine.reload(policies["tied"][1], 1)
