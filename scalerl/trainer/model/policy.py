"""A causal language model that returns log-probabilities of given tokens, not logits.

The model's own forward is cut in two where its last hidden states are. What comes before runs once for a
micro-batch. What comes after, from the output embedding to the logits, with the bias, the scale or the soft
cap that this architecture has, runs once for every chunk of tokens: `LastStep` calls the model's own
`forward` for it, in which the body returns the hidden states of the chunk.
"""

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from scalerl.trainer.model.head import HeadConfig, LogprobHead
from scalerl.trainer.packing import MicroBatch


class PolicyModel(nn.Module):
    """A Hugging Face causal language model and the head that takes the place of its own."""

    def __init__(self, model: Any, head: HeadConfig) -> None:
        """Wrap `model`.

        Raises:
            ValueError: it is not a body with one linear head on top.
        """
        super().__init__()
        self.model: Any = model
        last_step = LastStep(model)
        # A composite model, which reads images as well, has its text model further inside; the text part of
        # one may name itself as its decoder.
        decoder = model.get_decoder()
        self._decoder = (last_step.body if decoder is model else decoder,)  # a tuple: not a second submodule
        output = model.get_output_embeddings()
        self.head = LogprobHead(output.weight, head, bias=output.bias, last_step=last_step)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return (logprobs [T], entropies [T]) of the loss tokens of a micro-batch, in nats."""
        hidden = self._decoder[0](
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        return self.head(hidden.flatten(0, 1)[batch.predictors], batch.targets)


class LastStep:
    """The map from last hidden states to logits, as the model's own forward computes it."""

    def __init__(self, model: Any) -> None:
        """Find the two parts of `model`, which is not changed.

        Raises:
            ValueError: it is not a body with one linear head on top.
        """
        self._model = model
        embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
        parts = dict(model.named_children())
        bodies = [name for name, part in parts.items() if any(m is embedding for m in part.modules())]
        heads = [name for name, part in parts.items() if part is output]
        if len(bodies) != 1 or len(heads) != 1 or type(output).forward is not nn.Linear.forward:
            raise ValueError(
                f"{type(model).__name__} is not a body with one linear head on top, which is what the "
                f"trainer can compute in chunks of tokens; its parts are {sorted(parts)}"
            )
        self._body_name, self._head_name = bodies[0], heads[0]
        self.body: nn.Module = parts[bodies[0]]
        known = {id(parameter) for part in (self.body, output) for parameter in part.parameters()}
        others = [name for name, parameter in model.named_parameters() if id(parameter) not in known]
        if others:
            raise ValueError(
                f"{type(model).__name__} has the parameters {others} outside its body and its head: the "
                f"trainer would not train them"
            )

    def __call__(self, hidden: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logits [T, V] of hidden states [T, H].

        project: stands in for the output embedding, [1, T, H] to [1, T, V].
        """
        output = _LastHidden(hidden[None])
        # Attributes of the copy's own are found before the submodules, which it shares with the model. The
        # copy is no part of the trained module, and `forward` no call of it, so ZeRO-3 does not notice.
        twin = copy.copy(self._model)
        vars(twin)[self._body_name] = _StandIn(self.body, lambda *_, **__: output)
        vars(twin)[self._head_name] = _StandIn(self._model.get_output_embeddings(), project)
        return twin.forward(use_cache=False).logits.squeeze(0)  # the gradient of [0] would be a copy


class _LastHidden:
    """What a body returns, of which all but the last hidden states is None."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, _: str) -> None:
        return None


class _StandIn:
    """Has the attributes of a module, but computes something else."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self._module, self._function = module, function

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._function(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
