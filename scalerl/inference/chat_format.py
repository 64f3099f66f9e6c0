"""What stands around a problem's text: the model's chat template, its arguments, the system message.

A template says nothing when it ignores a message or an argument, so all of that is tried out at the start.
"""

import inspect
import re
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from scalerl.common.names import nearest
from scalerl.config import DataConfig
from scalerl.config.recipe import TEMPLATE_DEFAULT

PROBE = "What is 1 + 2?"
"""A problem to see by what a template makes of one."""


class ChatFormat:
    """The form in which a model is asked: one user message, or plain text where there is no chat template."""

    def __init__(self, tokenizer: Any, data: DataConfig, think_end: str) -> None:
        """Try the template of `tokenizer` out with data.system_prompt and data.chat_template_kwargs.

        think_end: length.think_end of the run.

        Raises:
            ValueError: there is no template that takes the one and the others, or the prompt itself ends the
                thinking, so that no response would.
        """
        self._tokenizer = tokenizer
        self._arguments = data.chat_template_kwargs
        self._system_prompt = None if data.system_prompt == TEMPLATE_DEFAULT else data.system_prompt
        if tokenizer.chat_template:
            self._check(think_end)
        elif self._arguments or self._system_prompt is not None:
            raise ValueError(
                "data.system_prompt and data.chat_template_kwargs need a chat template, and the tokenizer of "
                "this model has none: leave them out, and say in data.instruction what the model shall read"
            )

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a prompt that asks `text`."""
        if not self._tokenizer.chat_template:
            return list(self._tokenizer(text)["input_ids"])
        return list(self._apply(text, return_dict=True)["input_ids"])

    def _apply(self, text: str, **output: bool) -> Any:
        """Return the prompt, up to where the model goes on."""
        messages = [{"role": "user", "content": text}]
        if self._system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self._system_prompt})
        return self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, **output, **self._arguments
        )

    def _check(self, think_end: str) -> None:
        template = self._tokenizer.get_chat_template()
        for name in self._arguments:
            _check_argument(name, template)
        given = f"data.system_prompt = {self._system_prompt!r}"
        try:
            prompt = self._apply(PROBE, tokenize=False)
        except TemplateError as error:
            given += f" with data.chat_template_kwargs = {self._arguments}"
            raise ValueError(
                f"this model's chat template refuses {given} ({error}); one without system messages reads "
                f"data.instruction"
            ) from None
        if PROBE not in prompt:
            raise ValueError(
                f"this model's chat template leaves the problem out: {PROBE!r} becomes {prompt!r}. Put the "
                f"template of the model's own tokenizer into its folder"
            )
        if (self._system_prompt or "").strip() not in prompt:
            raise ValueError(
                f"this model's chat template leaves {given} out: put the text into data.instruction"
            )
        if think_end and prompt.rstrip().endswith(think_end):
            raise ValueError(
                f"this model's chat template ends the thinking in the prompt ({prompt[-40:]!r}), so no "
                f"response will hold length.think_end = {think_end!r} and none would be graded: set "
                'length.think_end = "" and length.length_control = "none" or "length_penalty"'
            )


def _check_argument(name: str, template: str) -> None:
    """Refuse an argument that the template never reads, or that is not the user's to give."""
    if (
        name in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
        or name == "messages"
    ):
        raise ValueError(f"data.chat_template_kwargs.{name} is not for the user to set: leave it out")
    words = set(re.findall(r"[A-Za-z_]\w*", template))
    if name not in words:
        near = nearest(name, words)
        hint = f"did you mean {' or '.join(near)}?" if near else "leave it out"
        raise ValueError(
            f"data.chat_template_kwargs.{name}: this model's chat template reads no {name}; {hint}"
        )
