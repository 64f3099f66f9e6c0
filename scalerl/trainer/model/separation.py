"""Whether sequences that share a row are kept apart, and whether attention does all that it is told.

Both are found by running the model on a few tokens, not from a list of architectures.

Position ids tell where a sequence begins, but a layer may not heed them. The state of a recurrence or of a
convolution goes on across that border, or the mask of attention does. Then what is left of the first sequence
reaches the log-probabilities of the second, so these have a gradient with respect to the first one's
embeddings; without such a path it is exactly zero, in any dtype. Or a layer counts positions from the
beginning of the row: then it matters whether a sequence comes first or second. What shows only in longer
rows is left to the exam before a run, which compares packed sequences with the same ones alone.
"""

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scalerl.trainer.packing import Layout, MicroBatch, TrainingSequence, micro_batch

PROBE_TOKENS = 24
"""Length of each of the two sequences; more than the kernel of any convolution."""

ROUNDINGS = 4.0
"""What changing places may do, in units of what rounding the embeddings once does; SmolLM2 in bf16: .4."""

Forward = Callable[[MicroBatch], tuple[Tensor, Tensor]]
"""A micro-batch -> (log-probabilities, entropies) of its loss tokens."""


def choose_layout(forward: Forward, model: Any, *, flash_attention: bool, device: torch.device) -> Layout:
    """Return how sequences may be laid out in rows, and see to it that attention leaves out nothing.

    Attention that ignores a constant of the model is replaced by the model's own, slower one.
    """
    second, first = (batch.to(device) for batch in _two_orders(model))
    with _watch_attention() as ignored:
        mixed, logprobs = _mixes_sequences(forward, model, second)
    with torch.no_grad():
        moved = _rms(forward(first)[0] - logprobs)
        rounding = _rms(_disturbed(forward, model, second) - logprobs)
    if ignored:
        print(f"attention in plain PyTorch, because sdpa ignores the model's {sorted(ignored)}", flush=True)
        model.set_attn_implementation("eager")
    if mixed or moved > max(math.sqrt(torch.finfo(model.dtype).eps), ROUNDINGS * rounding):
        return "alone"
    return "one_row" if flash_attention else "rows"


def _mixes_sequences(forward: Forward, model: Any, batch: MicroBatch) -> tuple[bool, Tensor]:
    """Say whether the second sequence of a row depends on the first; return its log-probabilities, too."""
    embedded: list[Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, __, output: embedded.append(output))
    with torch.enable_grad():
        logprobs, _ = forward(batch)
        (gradient,) = torch.autograd.grad(logprobs.sum(), embedded[0])
    hook.remove()
    return bool(gradient[0, : PROBE_TOKENS - 1].any()), logprobs.detach()


def _disturbed(forward: Forward, model: Any, batch: MicroBatch) -> Tensor:
    """Return the log-probabilities after a random change of every embedding by up to one rounding."""

    def disturb(_: Any, __: Any, output: Tensor) -> Tensor:
        # Drawn on the CPU, for the same numbers on every device.
        noise = torch.rand(output.shape, generator=torch.Generator().manual_seed(0)).to(output.device)
        factor = 1 + torch.finfo(output.dtype).eps * (2 * noise - 1)
        return (output * factor).to(output.dtype)

    hook = model.get_input_embeddings().register_forward_hook(disturb)
    logprobs, _ = forward(batch)
    hook.remove()
    return logprobs


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def _two_orders(model: Any) -> tuple[MicroBatch, MicroBatch]:
    """Return one row of two random sequences, and the same the other way round.

    The tokens of one have a loss: of the second, and so of the first where they have changed places.
    """
    vocabulary = model.get_input_embeddings().num_embeddings
    random = np.random.default_rng(0)
    silent, scored = (
        TrainingSequence(
            tokens=random.integers(vocabulary, size=PROBE_TOKENS),
            loss_positions=np.arange(PROBE_TOKENS - num_losses, PROBE_TOKENS),
            generator_logprobs=np.zeros(num_losses, dtype=np.float32),
            advantage=0.0,
            weight=0.0,
        )
        for num_losses in (0, PROBE_TOKENS - 1)
    )
    return micro_batch([[silent, scored]]), micro_batch([[scored, silent]])


@contextmanager
def _watch_attention() -> Iterator[set[str]]:
    """Collect the names of what the model tells its attention, but sdpa takes no notice of."""
    # A model brings its own attention in plain PyTorch. An argument that this one names, such as a soft cap
    # of the scores, matters; sdpa swallows it without a word.
    ignored: set[str] = set()
    understood = inspect.signature(sdpa_attention_forward).parameters

    def watched(module: Any, *arguments: Any, **keywords: Any) -> Any:
        own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", sdpa_attention_forward)
        named = inspect.signature(own).parameters.keys() & keywords.keys()
        ignored.update(name for name in named - understood.keys() if keywords[name] is not None)
        return sdpa_attention_forward(module, *arguments, **keywords)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = watched
    try:
        yield ignored
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
