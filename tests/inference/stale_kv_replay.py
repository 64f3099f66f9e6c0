"""The independent reference of the in-flight tests: Hugging Face forwards over the KV cache that earlier
policies left."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from scalerl.inference.completion import Completion


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def replay(
    models: Mapping[int, torch.nn.Module], completion: Completion, temperature: float = 1.0
) -> torch.Tensor:
    """Log-probabilities [completion tokens]: each span of one policy version is computed by that model over
    the cache so far."""
    num_prompt = len(completion.prompt_token_ids)
    sequence = torch.tensor([[*completion.prompt_token_ids, *completion.token_ids]])
    versions = completion.policy_versions
    starts = [index for index in range(1, len(versions)) if versions[index] != versions[index - 1]]
    # the step that samples token t computes the position before it
    cuts = [0, *(num_prompt + start - 1 for start in starts), sequence.shape[1]]
    cache, logits = None, []
    for begin, end in itertools.pairwise(cuts):
        version = versions[max(0, begin - num_prompt + 1)]
        output = models[version](sequence[:, begin:end], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    logprobs = (torch.cat(logits, 1)[0].float() / temperature).log_softmax(-1)[num_prompt - 1 : -1]
    return logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]


def errors(reference: torch.Tensor, completion: Completion) -> torch.Tensor:
    """|logprob - reference| of the sampled tokens."""
    sampled = torch.tensor(completion.loss_mask)
    return (torch.tensor(completion.logprobs) - reference).abs()[sampled]
