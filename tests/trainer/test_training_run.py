"""Whole trainer processes over a spool that a fake generator fills: rows, policies, quarantine, resume,
fences, divergence."""

import json
import math
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fake_generator import SPOILERS, VOCABULARY, FakeGenerator, make_group
from processes import output, start_ranks, wait
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from scalerl.common.files import read_json, write_json
from scalerl.data.problem import Problem, write_problems
from scalerl.paths import RunPaths
from scalerl.run_folder import Attempt, save_config, write_attempt
from scalerl.settings import build_config
from scalerl.spool.admission import read_manifest
from scalerl.spool.evaluations import pending_evaluations
from scalerl.spool.weights import hash_weights

pytestmark = pytest.mark.engine

PROMPTS, COMPLETIONS, STEPS = 4, 4, 4
TRAINER = "import sys; from pathlib import Path; from scalerl.trainer import run_trainer; "
TRAINER += "run_trainer(Path(sys.argv[1]), rank=int(sys.argv[2]), attempt=1)"


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        dtype=torch.float32,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(
        models.WordLevel({"<unk>": 0} | {chr(64 + index): index for index in range(1, VOCABULARY)}, "<unk>")
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def owner(attempt: int) -> Attempt:
    return Attempt(attempt=attempt, host="elsewhere", pid=1, started_ticks=1)


@dataclass
class Run:
    """A run folder without a supervisor."""

    inputs: Path
    paths: RunPaths
    model: str

    @classmethod
    def create(cls, inputs: Path, root: Path, *, model: str = "base") -> "Run":
        run = cls(inputs, RunPaths(root), model)
        run.paths.create()
        write_attempt(run.paths, owner(1))
        # what a trainer before this one has concluded at the end of step 2
        write_json(run.paths.plateaus, {"2": {"plateau": True}})
        run.configure()
        return run

    def configure(self, **changes) -> None:
        values = {
            "model.path": str(self.inputs / self.model),
            "data.train": str(self.inputs / "train.parquet"),
            "length.length_control": "none",
            "length.max_prompt_tokens": 16,
            "length.max_thinking_tokens": 16,
            "length.max_solution_tokens": 16,
            "off_policy.k": 2,
            "batch.prompts": PROMPTS,
            "batch.generations_per_prompt": COMPLETIONS,
            "optimizer.learning_rate": 1e-3,
            "optimizer.warmup_steps": 2,
            "optimizer.plateau_learning_rate_factor": 0.5,
            "generator.num": 3,
            "trainer.num_ranks": 1,
            "trainer.micro_batch_tokens": 128,
            "trainer.activation_checkpointing": False,
            "checkpoint.every_steps": 1,
            "checkpoint.keep": 2,
            "evaluation.every_steps": 2,
            "budget.max_steps": STEPS,
        }
        config = build_config(values | changes)
        save_config(self.paths, config)

    @property
    def error(self) -> str:
        """Of a run that run_worker.py ran."""
        path = self.paths.logs / "error.txt"
        return path.read_text() if path.exists() else ""

    def rows(self) -> list[dict]:
        return [json.loads(path.read_text()) for path in sorted(self.paths.inbox.glob("step-*.json"))]

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        return load_file(self.paths.checkpoints / f"{step:08d}" / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    save_model(folder / "base")
    save_model(folder / "broken")
    weights = load_file(folder / "broken" / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, folder / "broken" / "model.safetensors", metadata={"format": "pt"})
    problems = [
        Problem(prompt_id=f"id-{number}", prompt=f"What is {number}?", answer=str(number), source="test")
        for number in range(20)
    ]
    write_problems(folder / "train.parquet", problems)
    return folder


@pytest.fixture(scope="module")
def runs(inputs, tmp_path_factory) -> dict[str, Run]:
    """straight: four steps, with refused shards on the way. resumed: the same in two processes, the first of
    which gets SIGTERM while it waits for the rollouts of the third step.

    late: no generator ever. diverged: a model with a NaN. stale: attempt 2 takes over while the trainer waits
    for rollouts.
    """
    root = tmp_path_factory.mktemp("runs")
    runs = {name: Run.create(inputs, root / name) for name in ("straight", "resumed", "late", "stale")}
    runs["diverged"] = Run.create(inputs, root / "diverged", model="broken")
    runs["late"].configure(**{"launch.wait_for_rollouts_s": 0.5})
    runs["resumed"].configure(**{"checkpoint.every_steps": 100})
    spoil = dict(enumerate(["torn", *SPOILERS]))
    generators = [FakeGenerator(runs["straight"].paths, COMPLETIONS, spoil)]
    generators += [FakeGenerator(runs["diverged"].paths, COMPLETIONS)]
    generators += [TakesOver(runs["stale"].paths, COMPLETIONS), TwoSteps(runs["resumed"].paths, COMPLETIONS)]
    for generator in generators:
        generator.start()

    in_turn = [str(runs[name].paths.root) for name in ("straight", "late", "diverged", "stale")]
    worker = start_ranks(
        [__file__.replace("test_training_run.py", "run_worker.py"), *in_turn], 1, root / "log"
    )
    resumed, log = ["-c", TRAINER, str(runs["resumed"].paths.root), "{rank}"], root / "resumed-log"
    terminate(start_ranks(resumed, 1, log), runs["resumed"], log)
    generators[-1].num_steps = STEPS
    assert wait(start_ranks(resumed, 1, log)) == [0], output(log)
    assert wait(worker) == [0], output(root / "log")
    for generator in generators:
        generator.stop()
    return runs


def terminate(processes: list[subprocess.Popen], run: Run, log: Path) -> None:
    """Send SIGTERM after two steps, as Slurm does to every task of a job that it preempts with grace."""
    end_s = time.monotonic() + 120
    while len(run.rows()) < 2:
        assert time.monotonic() < end_s and processes[0].poll() is None, output(log)
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGTERM)
    assert wait(processes) == [143], output(log)
    assert [path.name for path in run.paths.checkpoints.iterdir()] == ["00000002"]
    assert not run.paths.end.exists(), "it claims no end"


class TwoSteps(FakeGenerator):
    """The groups of the first two steps, until `num_steps` says that there may be more."""

    num_steps = 2

    def _publish(self, rollouts) -> None:
        if rollouts[0].group < self.num_steps * PROMPTS:
            super()._publish(rollouts)


class TakesOver(FakeGenerator):
    """Another attempt claims the folder just before the first rollouts arrive."""

    def _publish(self, rollouts) -> None:
        write_attempt(self._paths, owner(2))
        super()._publish(rollouts)


def test_rows_of_the_straight_run(runs):
    rows = runs["straight"].rows()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["learning_rate"] for row in rows] == [5e-4, 1e-3, 5e-4, 5e-4], "the plateau on record"
    # nothing was evaluated meanwhile, so that step 4 concludes nothing
    unknown = {"plateau": False, "gain": None, "standard_error": None, "evaluations": []}
    assert read_json(runs["straight"].paths.plateaus) == {"2": {"plateau": True}, "4": unknown}
    # group g has no correct completion if g % 4 == 0, otherwise g % 4 + 1 of 4: (0 + 2 + 3 + 4) / 16; the
    # last is all correct
    assert [row["pass_rate"] for row in rows] == [9 / 16] * 4
    assert [row["reward"] for row in rows] == [pytest.approx(2 / 16)] * 4
    assert all(row["verdicts"] == {"math/different": 7, "math/equal": 9} for row in rows)
    assert all(row["restated_share"] == 0 for row in rows)
    assert all(row["groups_dropped"] == {"zero_variance": 2} for row in rows)
    assert all(row["step_applied"] and row["num_groups"] == 4 for row in rows)
    assert all(row["truncation_rate"] == row["interruption_rate"] == 0.25 for row in rows)
    assert all(row["off_policyness_max"] <= 2 for row in rows)
    assert rows[0]["off_policyness"].keys() == {"0"}
    tokens = [row["trained_tokens"] for row in rows]
    assert tokens == sorted(set(tokens))
    assert {
        "wait_s",
        "read_s",
        "train_s",
        "publish_s",
        "checkpoint_s",
        "time_s",
        "prompts_dropped_total",
    } <= rows[0].keys()


def test_tokens_and_flops_of_the_first_step(runs):
    row = runs["straight"].rows()[0]
    trained = generated = 0
    for group in range(4):
        num_tokens = sum(
            len(rollout.completion_token_ids) for rollout in make_group(group, "", 0, COMPLETIONS)
        )
        generated += num_tokens
        trained += num_tokens * (group in (1, 2))
    num_parameters = sum(tensor.numel() for tensor in runs["straight"].weights(4).values())
    assert (row["generated_tokens"], row["trained_tokens"]) == (generated, trained)
    assert row["flops"] == num_parameters * (6 * trained + 2 * generated)


def test_refused_shards_are_kept_with_their_reasons_and_replaced(runs):
    quarantine = runs["straight"].paths.spool / "quarantine"
    reasons = {int(path.name[:9]): path.read_text() for path in quarantine.glob("*.reason.txt")}
    assert "not a readable Parquet file" in reasons.pop(0)
    # shards of later steps are checked when their step comes: version -3 is then too old all the more
    expected = dict(enumerate(SPOILERS, 1))
    assert reasons.keys() == expected.keys()
    for group, reason in reasons.items():
        assert expected[group].split(" to ")[0].rstrip("0123456789-") in reason
    assert len(list(quarantine.glob("*.parquet"))) == len(reasons) + 1


def test_published_policies(runs):
    paths = runs["straight"].paths
    manifest = read_manifest(paths)
    folder = paths.weights / manifest.name
    assert (manifest.policy_version, manifest.next_group, manifest.batch_prompts) == (4, 16, 4)
    assert [group for group, _ in manifest.admitted] == list(range(16, 28))
    assert hash_weights(folder) == manifest.sha256
    assert manifest.name == f"00000004-{manifest.sha256[:12]}"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(folder).vocab_size == VOCABULARY
    assert torch.isfinite(model(torch.tensor([[3, 4, 5]])).logits).all()


def test_evaluations_are_requested_before_the_first_step_then_every_two(runs):
    requests = pending_evaluations(runs["straight"].paths)
    assert [request.step for request in requests] == [0, 2, 4]
    assert requests[0].generated_tokens == requests[0].trained_tokens == 0
    weights = {folder.name for folder in runs["straight"].paths.weights.iterdir() if folder.is_dir()}
    assert {request.name for request in requests} <= weights
    assert sorted(int(name[:8]) for name in weights) == [0, 2, 3, 4]  # version 1 is needed by nobody


def test_a_run_resumed_after_sigterm_has_the_same_weights(runs):
    straight, resumed = runs["straight"], runs["resumed"]
    assert read_manifest(resumed.paths).sha256 == read_manifest(straight.paths).sha256
    assert read_manifest(resumed.paths).admitted == read_manifest(straight.paths).admitted
    assert read_json(resumed.paths.end)["step"] == STEPS
    assert "continuing from the checkpoint of step 2" in output(resumed.paths.root.parent / "resumed-log")
    assert straight.error == ""
    for one, other in zip(straight.rows(), resumed.rows(), strict=True):
        same = (
            "loss",
            "learning_rate",
            "grad_norm",
            "entropy",
            "log_ratio_mean",
            "generated_tokens",
            "trained_tokens",
            "flops",
            "groups_dropped",
            "completion_tokens_mean",
        )
        assert [one[key] for key in same] == [other[key] for key in same]


def test_only_the_newest_checkpoints_stay(runs):
    assert sorted(path.name for path in runs["straight"].paths.checkpoints.iterdir()) == [
        "00000003",
        "00000004",
    ]
    state = read_json(runs["straight"].paths.checkpoints / "00000004" / "state.json")
    assert state["progress"]["next_group"] == 16


def test_missing_rollouts_end_the_trainer_with_the_generators_that_owe_them(runs):
    error = runs["late"].error
    assert "TimeoutError" in error
    assert "groups [0, 1, 2, 3] of step 0" in error
    assert "owed by generators [0, 1, 2]" in error


def test_a_stale_attempt_publishes_nothing(runs):
    stale = runs["stale"]
    assert "StaleAttempt: attempt 2 owns" in stale.error
    assert read_manifest(stale.paths).policy_version == 0
    assert stale.rows() == []
    assert list(stale.paths.checkpoints.iterdir()) == []
    assert [path.name[:8] for path in stale.paths.weights.iterdir() if path.is_dir()] == ["00000000"]


def test_three_steps_that_are_not_finite_end_the_trainer(runs):
    rows = runs["diverged"].rows()
    assert [row["step_applied"] for row in rows] == [False] * 3
    assert [(row["loss"], row["entropy"]) for row in rows] == [(None, None)] * 3
    assert "FloatingPointError: loss or gradient was not finite in 3 steps in a row" in runs["diverged"].error
