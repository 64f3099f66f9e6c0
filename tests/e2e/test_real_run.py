"""A short `make real`: the real pretrained model, fetched and converted, in a run of eight small steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from left_out import leave_out

from scalerl.data.prepare import prepare_generated
from scalerl.inference.prompts import load_tokenizer
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths
from scalerl.pretrained import PRETRAINED, check_model, convert, download
from scalerl.spool.shards import Spool

pytestmark = pytest.mark.engine
REAL = Path(__file__).parents[2] / "sweeps" / "scale" / "real.toml"
STEPS = 8


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder, from a download of 93 MB."""
    folder = tmp_path_factory.mktemp("smollm2")
    try:
        weights = download(PRETRAINED["smollm2"], folder)
    except ValueError as error:
        leave_out(str(error), "of a real pretrained model")
    convert(weights, folder / "base")
    check_model(PRETRAINED["smollm2"], folder / "base")
    return folder / "base"


def run_real(base: Path, folder: Path) -> RunPaths:
    """Train the model for eight steps of 2 x 4 completions, and return the files of the run."""
    prepare_generated(
        folder / "data", "word_problems:max_steps=1", count=200, heldout_fraction=0.1, test_fraction=0.05
    )
    overrides = [f"model.path={base}", f"budget.max_steps={STEPS}", "launch.preflight=off"]
    overrides += [f"data.{name}={folder / 'data' / name}.parquet" for name in ("train", "heldout", "test")]
    overrides += ["batch.prompts=2", "batch.generations_per_prompt=4", "checkpoint.every_steps=100"]
    overrides += [f"evaluation.every_steps={STEPS}", "evaluation.num_prompts=8"]
    overrides += ["evaluation.samples_per_prompt=2", "generator.max_num_seqs=16"]
    overrides += ["algo.zero_variance=keep"]  # few of eight answers are right: all of a group may be wrong
    command = [sys.executable, "-m", "scalerl", "run", str(REAL), "--dir", str(folder / "run"), *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return RunPaths(folder / "run")


def test_eight_steps_of_the_real_model(base, tmp_path):
    paths = run_real(base, tmp_path)
    rows = read_rows(paths.metrics)
    assert [row.step for row in rows.steps] == list(range(1, STEPS + 1))
    assert sorted(row.step for row in rows.evaluations) == [0, STEPS]

    tokenizer = load_tokenizer(base)
    rollout = Spool(paths.spool).read(STEPS * 2 - 1)[0]
    prompt = tokenizer.decode(rollout.prompt_token_ids)
    assert prompt.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n")
    assert prompt.endswith("Answer with the calculation only.<|im_end|>\n<|im_start|>assistant\n")
    assert 0 < len(rollout.completion_token_ids) <= 16 + 2 + 16  # thinking, " =", solution

    # The two engines agree on real weights in bfloat16: .019 nats were measured, .69 is a coin's surprise.
    assert rows.steps[0].off_policyness_max == 0
    assert 0 < rows.steps[0].log_ratio_mean < 0.06
    assert all(row.step_applied for row in rows.steps)
    assert (paths.best / "model.safetensors").exists()
    assert load_tokenizer(paths.best).chat_template == tokenizer.chat_template
