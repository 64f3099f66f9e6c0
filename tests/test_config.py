"""Config: what is refused and how, precedence, and the signature as the identity of a run."""

from pathlib import Path

import pytest

from scalerl.config import RunConfig
from scalerl.settings import build_config, differences, flatten, load_config, parse_override

REPOSITORY = Path(__file__).parent.parent


def test_scalerl_is_the_default():
    config = RunConfig()
    assert (config.algo.loss_type, config.algo.loss_aggregation, config.algo.advantage_norm) == (
        "cispo",
        "prompt",
        "batch",
    )
    assert (config.algo.zero_variance, config.algo.curriculum) == ("drop", "no_positive_resampling")
    assert (config.off_policy.mode, config.off_policy.max_off_policyness) == ("pipeline_rl", 8)
    assert config.model.generator_fp32_head and config.model.trainer_fp32_head
    assert config.batch.prompts * config.batch.generations_per_prompt == 768
    assert config.length.max_tokens == 16_384
    assert (config.optimizer.learning_rate, config.optimizer.eps, config.optimizer.weight_decay) == (
        5e-7,
        1e-15,
        0.01,
    )
    assert config.generator.num + config.evaluation.num + config.trainer.num_ranks == 80


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss_type=dapo", "did you mean algo.loss_type?"),
        ("algo.los_type=dapo", "did you mean algo.loss_type"),
        ("algo.loss_type=ppo", "'cispo', 'dapo', 'grpo' or 'gspo'"),
        ("off_policy.k=0", "off_policy.k = 0"),
        ("batch.prompts=2.5", "batch.prompts = 2.5"),
        ("algo.temperature=nan", "algo.temperature"),
        ("batch.max_prompts=4", "a batch can only grow"),
        (
            "length.max_thinking_tokens=11000",
            "interruption_max_tokens (12000) <= max_thinking_tokens (11000)",
        ),
        ("length.interruption_text=stop", "must end with think_end"),
        ("trainer.micro_batch_tokens=100", "longest sequence"),
        ("nonsense", "key=value"),
    ],
)
def test_bad_values_name_the_way_out(override, message):
    with pytest.raises(ValueError) as error:
        load_config([], [override])
    assert message in str(error.value)


def test_fp32_body_has_an_fp32_head():
    with pytest.raises(ValueError, match="an fp32 body has an fp32 head"):
        load_config([], ["model.dtype=float32", "model.lm_head_precision=bf16"])


def test_head_precision_applies_to_each_engine():
    generator_only = load_config([], ["model.lm_head_precision=fp32_generator"]).model
    assert generator_only.generator_fp32_head and not generator_only.trainer_fp32_head


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ValueError, match=r"budget\.max_steps or budget\.max_gpu_hours"):
        build_config({"budget.max_steps": None, "budget.max_gpu_hours": None})


def test_precedence_defaults_files_overrides(tmp_path):
    base, axis = tmp_path / "base.toml", tmp_path / "axis.toml"
    base.write_text('seed = 1\n[algo]\nloss_type = "dapo"\ntemperature = 0.5\n[batch]\nprompts = 8\n')
    axis.write_text('[algo]\nloss_type = "gspo"\n')
    config = load_config([base, axis], ["batch.prompts=4"])
    assert (config.seed, config.algo.temperature) == (1, 0.5)
    assert config.algo.loss_type == "gspo"
    assert config.batch.prompts == 4
    assert config.batch.generations_per_prompt == 16


def test_unknown_key_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[optimizer]\nlr = 1e-4\n")
    with pytest.raises(ValueError, match=r"run\.toml: unknown key 'optimizer\.lr'"):
        load_config([path])


def test_override_values_are_toml_or_plain_text():
    assert parse_override("a.b=1e-3") == ("a.b", 1e-3)
    assert parse_override("a.b=true") == ("a.b", True)
    assert parse_override("a.b=data/x.parquet") == ("a.b", "data/x.parquet")
    assert parse_override("a.b=x=y") == ("a.b", "x=y")


def test_arguments_of_the_chat_template_are_a_table_of_free_names(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[data.chat_template_kwargs]\nenable_thinking = true\ndate_string = "26 Jul 2024"\n')
    config = load_config([path], ["data.chat_template_kwargs.enable_thinking=false"])
    assert config.data.chat_template_kwargs == {"enable_thinking": False, "date_string": "26 Jul 2024"}
    assert build_config(flatten(config.model_dump(mode="json"))) == config
    without = load_config([path])
    assert without.signature() != config.signature() != RunConfig().signature()
    key = "data.chat_template_kwargs.enable_thinking"
    assert differences(without, config) == [f"{key}: True -> False"]
    assert differences(RunConfig(), load_config([], [f"{key}=true"])) == [f"{key}: 'not set' -> True"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.chat_template_kwargs={a=1}", r"is a table: .* data\.chat_template_kwargs\.NAME=value"),
        (
            "data.chat_template_kwargs.enable_thinking=False",
            r"enable_thinking = 'False' is a text; write false",
        ),
        ("data.chat_template_kwarg.a=1", r"did you mean data\.chat_template_kwargs\.NAME"),
        ("data.chat_template_kwargs.a.b=1", r"data\.chat_template_kwargs\.a\."),
    ],
)
def test_wrong_arguments_of_the_chat_template(override, message):
    with pytest.raises(ValueError, match=message):
        load_config([], [override])


def test_signature_is_the_identity_of_the_recipe():
    config = RunConfig()
    same = load_config([], ["budget.max_gpu_hours=16000", "launch.max_restarts=9", "evaluation.num=2"])
    assert same.signature() == config.signature()
    for override in (
        "algo.loss_type=dapo",
        "seed=1",
        "evaluation.every_steps=9",
        "generator.num=32",
        "optimizer.learning_rate=1e-6",
        "data.system_prompt=Be brief.",
    ):
        assert load_config([], [override]).signature() != config.signature()
    assert differences(config, load_config([], ["seed=1"])) == ["seed: 0 -> 1"]


def test_resolved_config_survives_json():
    config = load_config([], ["batch.max_prompts=96", "algo.loss_type=gspo"])
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_every_shipped_toml_loads():
    overlays = sorted((REPOSITORY / "sweeps" / "scale").glob("*.toml"))
    assert overlays
    for overlay in overlays:
        load_config([REPOSITORY / "sweeps" / "base.toml", overlay])
        load_config([overlay])


@pytest.mark.parametrize(
    ("scale", "devices"), [("demo", 3), ("ablation", 80), ("loo", 80), ("16k", 80), ("100k", 80)]
)
def test_the_evaluators_of_every_scale_keep_up(scale, devices):
    """By the estimate of sweeps/base.toml: an engine that only evaluates does five times what a generator
    does at the run's pace."""
    config = load_config(
        [REPOSITORY / "sweeps" / "base.toml", REPOSITORY / "sweeps" / "scale" / f"{scale}.toml"]
    )
    evaluation, batch = config.evaluation, config.batch
    assert config.trainer.num_ranks + config.generator.num + evaluation.num == devices
    a_generator_does = batch.prompts * batch.generations_per_prompt / config.generator.num
    an_evaluator_must = (
        evaluation.num_prompts * evaluation.samples_per_prompt / evaluation.num / evaluation.every_steps
    )
    assert an_evaluator_must < 5 * a_generator_does
