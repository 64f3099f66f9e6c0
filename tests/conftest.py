"""Fixtures that several test folders share."""

from collections.abc import Callable
from pathlib import Path

import pytest

PolicyWriter = Callable[..., None]


@pytest.fixture(scope="session")
def write_policy() -> PolicyWriter:
    """write_policy(folder, seed=0, tie_embeddings=True): a tiny Qwen3 of sharp random weights with the arithmetic tokenizer."""

    def write(folder: Path, *, seed: int = 0, tie_embeddings: bool = True) -> None:
        import torch

        from scalerl.base_model import build_model, build_tokenizer

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(hidden_size=64, num_layers=2, tie_embeddings=tie_embeddings)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if "norm" not in name:
                        parameter.mul_(5.0)  # far from uniform, so that a wrong policy or cache shows
        model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)

    return write
