"""How a model is asked by `scalerl evaluate`: as its run says, or as the user says."""

import shutil

import pytest

from scalerl.common.files import write_json
from scalerl.config import RunConfig
from scalerl.evaluator.model_config import config_of_model
from scalerl.run_folder import save_config
from scalerl.settings import load_config
from scalerl.spool.best import keep_if_best

ASKED = ("data.instruction=Answer with the number only.", "length.think_end=>", "algo.temperature=0.7")


@pytest.fixture
def weights(run_folder, paths):
    """The newest policy of a run that asks as ASKED."""
    save_config(paths, load_config([], [*ASKED, "length.length_control=none"]))
    folder = paths.weights / "00000003-a"
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "qwen3"})
    keep_if_best(paths, folder, {"pass_rate": 0.5})
    return folder


def asked(config: RunConfig) -> tuple[str, str, float]:
    return config.data.instruction, config.length.think_end, config.algo.temperature


def test_a_policy_of_a_run_is_asked_as_the_run_says(paths, weights, tmp_path, monkeypatch):
    as_the_run_says = ("Answer with the number only.", ">", 0.7)
    for model in (weights, paths.best):
        config, origin = config_of_model(model, None)
        assert asked(config) == as_the_run_says
        assert origin.is_relative_to(paths.root)
    monkeypatch.chdir(paths.best)
    config, _ = config_of_model(paths.best.relative_to(paths.best), None, ["algo.temperature=1"])
    assert asked(config) == (*as_the_run_says[:2], 1.0)
    shutil.copytree(paths.best, tmp_path / "elsewhere")
    shutil.rmtree(paths.root)
    assert asked(config_of_model(tmp_path / "elsewhere", None)[0]) == as_the_run_says


def test_a_foreign_model_needs_a_config(paths, weights, tmp_path):
    model = tmp_path / "models" / "base" / "best"  # whose parent folder is a model as well
    for folder in (model.parent, model):
        folder.mkdir(parents=True)
        write_json(folder / "config.json", {"model_type": "qwen3"})
    with pytest.raises(ValueError, match=r"is no policy of a run .* name --config FILE"):
        config_of_model(model, None, ["algo.temperature=1"])
    assert asked(config_of_model(model, paths.config, ["data.instruction="])[0]) == ("", ">", 0.7)
    (tmp_path / "a.toml").write_text('length.think_end = ""\nlength.length_control = "none"')
    config, origin = config_of_model(weights, tmp_path / "a.toml")
    assert (config.length.think_end, config.algo.temperature, origin) == ("", 1.0, tmp_path / "a.toml")
    with pytest.raises(ValueError, match=r"base/config\.json is no config\.json of a run"):
        config_of_model(model, model.parent / "config.json")
    with pytest.raises(ValueError, match=r"there is no file .*b\.json"):
        config_of_model(model, tmp_path / "b.json")
    with pytest.raises(ValueError, match="unknown key 'algo"):
        config_of_model(weights, None, ["algo.temp=1"])
    with pytest.raises(ValueError, match=r"--model .*nowhere: no config\.json there"):
        config_of_model(tmp_path / "nowhere", None)
