"""The reference's exam: what plain Transformers says of the same sequences.

One sequence at a time goes through the model's own forward: nothing of the trainer or the generator is used.
Once in the run's dtype with attention in plain PyTorch, which ignores nothing; once with the attention of the
trainer, which then rounds alike; and once all in fp32, which tells how much of a difference is rounding.
"""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from scalerl.config import RunConfig
from scalerl.paths import RunPaths
from scalerl.preflight.exam import (
    ExamPath,
    ScoredSequence,
    read_figures,
    sequences_to_score,
    write_exam,
    write_figures,
)
from scalerl.run_folder import read_config

CHUNK_TOKENS = 512
"""Tokens whose log-probabilities are computed at once."""
WEIGHTS_SHARE = 0.55
"""Share of a GPU that weights may take: fp32 is twice the run's, and plain attention takes the rest."""


def run_reference_exam(run_dir: Path, *, attempt: int) -> None:
    """Score the sequences of the generator's exam with plain Transformers, and write both paths.

    Raises:
        FileNotFoundError: the generator has not been examined.
    """
    del attempt  # it writes nothing that another attempt reads
    paths = RunPaths(run_dir)
    config = read_config(paths)
    sequences = sequences_to_score(paths)
    begin_s = time.monotonic()
    attention = read_figures(paths, "trainer")["attention"]
    exams: dict[ExamPath, tuple[str, str]] = {"reference": (config.model.dtype, "eager")}
    if config.model.dtype != "float32":
        exams["reference_twin"] = (config.model.dtype, attention)
    for path, (dtype, kernels) in exams.items():
        write_exam(paths, path, score_plainly(config, sequences, dtype=dtype, attention=kernels))
    exact = score_plainly(config, sequences, dtype="float32")
    write_exam(paths, "reference_fp32", exact)
    num_tokens = (len(exams) + 1) * sum(len(sequence.token_ids) for sequence in sequences)
    write_figures(paths, "reference", {"tokens_per_s": num_tokens / (time.monotonic() - begin_s)})


def score_plainly(
    config: RunConfig, sequences: Sequence[ScoredSequence], *, dtype: str, attention: str = "eager"
) -> list[ScoredSequence]:
    """Return the log-probabilities of every token but the first, of the model in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(
        config.model.path, dtype=getattr(torch, dtype), attn_implementation=attention, **_placement()
    )
    if config.model.trainer_fp32_head and dtype != "float32":
        _use_fp32_head(model)
    model.eval()
    return [
        ScoredSequence(
            sequence=sequence.sequence,
            token_ids=sequence.token_ids,
            scored_from=1,
            logprobs=_logprobs(model, sequence.token_ids, config.algo.temperature).tolist(),
        )
        for sequence in sequences
    ]


def _placement() -> dict[str, Any]:
    """Return where to load a model: on the GPUs as far as WEIGHTS_SHARE goes, the rest waits in memory."""
    if not torch.cuda.is_available():
        return {}
    sizes = [
        torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())
    ]
    limits: dict[int | str, int] = {index: int(WEIGHTS_SHARE * size) for index, size in enumerate(sizes)}
    return {"device_map": "auto", "max_memory": limits | {"cpu": 1 << 50}}


@torch.no_grad()
def _logprobs(model: Any, token_ids: Sequence[int], temperature: float) -> Tensor:
    """Return the log-probabilities [N - 1], fp32, of N tokens after the first."""
    tokens = torch.tensor([token_ids], device=model.device)
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0]
    chunks = zip(logits.split(CHUNK_TOKENS), tokens[0, 1:].split(CHUNK_TOKENS), strict=True)
    return torch.cat(
        [
            (chunk.float() / temperature).log_softmax(dim=-1).gather(-1, targets[:, None]).squeeze(-1)
            for chunk, targets in chunks
        ]
    ).cpu()


def _use_fp32_head(model: Any) -> None:
    """Have the output embedding multiply fp32 copies of hidden states and weight."""
    # A copy: the weight may be the input embedding's, too, which keeps its dtype.
    head = copy.deepcopy(model.get_output_embeddings()).float()
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    model.set_output_embeddings(head)
