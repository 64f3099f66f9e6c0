"""Whether sequences that share a row are kept apart, and whether attention does all that it is told.

Both are found by running the model once on a few tokens, not from a list of architectures.

Attention is told by position ids where a sequence begins, but the state of a recurrent layer or of a
convolution may go on across that border. Then what is left of the first sequence reaches the
log-probabilities of the second, so these have a gradient with respect to the first one's embeddings; without
such a path it is exactly zero, in any dtype.
"""

import inspect
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

Forward = Callable[[MicroBatch], tuple[Tensor, Tensor]]
"""A micro-batch -> (log-probabilities, entropies) of its loss tokens."""


def choose_layout(forward: Forward, model: Any, *, flash_attention: bool, device: torch.device) -> Layout:
    """Return how sequences may be laid out in rows, and see to it that attention leaves out nothing.

    Attention that ignores a constant of the model is replaced by the model's own, slower one.
    """
    batch = _two_sequences(model).to(device)
    with _watch_attention() as ignored:
        mixed = _mixes_sequences(forward, model, batch)
    if ignored:
        print(f"attention in plain PyTorch, because sdpa ignores the model's {sorted(ignored)}", flush=True)
        model.set_attn_implementation("eager")
    if mixed:
        return "alone"
    return "one_row" if flash_attention else "rows"


def _mixes_sequences(forward: Forward, model: Any, batch: MicroBatch) -> bool:
    """Say whether the second sequence of a row depends on the first."""
    embedded: list[Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, __, output: embedded.append(output))
    with torch.enable_grad():
        logprobs, _ = forward(batch)
        (gradient,) = torch.autograd.grad(logprobs.sum(), embedded[0])
    hook.remove()
    return bool(gradient[0, : PROBE_TOKENS - 1].any())


def _two_sequences(model: Any) -> MicroBatch:
    """Return one row of two random sequences; the tokens of the second have a loss."""
    vocabulary = model.get_input_embeddings().num_embeddings
    random = np.random.default_rng(0)
    row = [
        TrainingSequence(
            tokens=random.integers(vocabulary, size=PROBE_TOKENS),
            loss_positions=np.arange(PROBE_TOKENS - num_losses, PROBE_TOKENS),
            generator_logprobs=np.zeros(num_losses, dtype=np.float32),
            advantage=0.0,
            weight=0.0,
        )
        for num_losses in (0, PROBE_TOKENS - 1)
    ]
    return micro_batch([row])


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
