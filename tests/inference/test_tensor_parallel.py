"""An engine of two workers, each with half of every layer: in-flight updates reach both, a folder that is no
policy neither."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file
from stale_kv_replay import errors, load_model, replay

from scalerl.config import LengthConfig
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.prompts import load_tokenizer

LENGTH = LengthConfig(
    max_prompt_tokens=50, max_thinking_tokens=60, max_solution_tokens=20, length_control="none"
)
UPDATES = {10: 1, 17: 0, 25: 1}
"""Engine step -> policy loaded after it."""
PROMPTS = ["7*3-4+8?", "1+1?", "9-9*3+0*2-7+5?"]
COPIES = 8


def served(engine) -> list[str]:
    """Return what each worker computes with."""
    return engine._engine.collective_rpc("served_policy")


def test_two_workers_follow_every_update_and_refuse_what_is_no_policy(
    open_engine, policies, tmp_path, monkeypatch
):
    folders = policies["untied"]
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}|{cores[-1]}")
    incomplete, gone = tmp_path / "00000002-bbbbbbbbbbbb", tmp_path / "00000003-cccccccccccc"
    shutil.copytree(folders[0], incomplete)
    tensors = load_file(incomplete / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, incomplete / "model.safetensors", metadata={"format": "pt"})

    with open_engine(folders[0], tensor_parallel_size=2) as engine:
        assert served(engine) == [folders[0].name] * 2
        tokenizer = load_tokenizer(folders[0])
        sampler = CompletionSampler(engine, tokenizer, LENGTH, seed=0)
        for number in range(COPIES * len(PROMPTS)):
            sampler.submit(number, tokenizer(PROMPTS[number % len(PROMPTS)])["input_ids"])
        finished, step = [], 0
        while sampler.num_running:
            finished += sampler.step()
            step += 1
            if step in UPDATES:
                folder = folders[UPDATES[step]]
                engine.reload(folder, UPDATES[step])
                assert served(engine) == [folder.name] * 2
            if step == 20:  # policy 0 is served
                with pytest.raises(ValueError, match=r"down_proj\.weight is missing"):
                    engine.reload(incomplete, 2)
                with pytest.raises(FileNotFoundError, match=gone.name):
                    engine.reload(gone, 3)
                assert served(engine) == [folders[0].name] * 2
        engine.shutdown()

    models = {version: load_model(folder) for version, folder in enumerate(folders)}
    assert len(finished) == COPIES * len(PROMPTS)
    for completion in finished:
        expected = [0] * 10 + [1] * 7 + [0] * 8 + [1] * 55
        assert completion.policy_versions == expected[: len(completion.token_ids)]
        assert errors(replay(models, completion), completion).max() < 1e-4
    crossed = [completion for completion in finished if len(completion.token_ids) > 25]
    assert len(crossed) >= 2, "the test needs completions that lived through all three updates"
    one_policy = dict.fromkeys(models, models[0])
    assert min(errors(replay(one_policy, completion), completion).max() for completion in crossed) > 0.1
