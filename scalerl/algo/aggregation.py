"""How the losses of a batch's tokens become one number: the weight of each token (paper, section 3)."""

from typing import Literal

import numpy as np


def token_weights(
    num_loss_tokens: np.ndarray, aggregation: Literal["prompt", "sample", "token"]
) -> np.ndarray:
    """Return the weight of a loss token of each completion: the sum of weight x loss is the aggregated loss.

    num_loss_tokens: [prompts, completions], counts of the tokens that were sampled, not forced, of all
    prompts of the step. Forced tokens count in no mean, and neither do completions or prompts without loss
    tokens.
    aggregation: "sample" is the mean over a completion's tokens, then over completions; "prompt" the mean
    over all tokens of a prompt, then over prompts (ScaleRL); "token" the mean over all tokens of the batch.

    Returns:
        [prompts, completions], 0 where a completion has no loss tokens.
    """
    # All denominators are taken here, over the whole step, so that losses of micro-batches and ranks add up.
    # Means of means, over micro-batches or ranks, would weigh tokens by how the batch happened to be packed.
    if aggregation == "sample":
        denominators = num_loss_tokens * np.count_nonzero(num_loss_tokens)
    elif aggregation == "prompt":
        tokens_of_prompt = num_loss_tokens.sum(axis=1, keepdims=True)
        denominators = np.broadcast_to(
            tokens_of_prompt * np.count_nonzero(tokens_of_prompt), num_loss_tokens.shape
        )
    else:
        denominators = np.full(num_loss_tokens.shape, num_loss_tokens.sum())
    return np.divide(1.0, denominators, out=np.zeros(num_loss_tokens.shape), where=num_loss_tokens > 0)
