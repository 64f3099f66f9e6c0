"""From a problem to the token ids the engine starts from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from scalerl.config import DataConfig, LengthConfig
from scalerl.data.problem import Problem
from scalerl.inference.chat_format import ChatFormat
from scalerl.tasks.registry import TASKS


def load_tokenizer(model: str | Path) -> Any:
    """Return the tokenizer of a Hugging Face folder."""
    return AutoTokenizer.from_pretrained(str(model))


class PromptEncoder:
    """Turns problems into token ids, and remembers them.

    A prompt is the problem's text and the instruction of its task, as a user message in the tokenizer's chat
    template if it has one.
    """

    def __init__(self, tokenizer: Any, data: DataConfig, length: LengthConfig) -> None:
        """Take what is said around a problem from `data`, limits and the end of thinking from `length`.

        Raises:
            ValueError: the tokenizer's chat template does not take what `data` says, or ends the thinking.
        """
        self._format = ChatFormat(tokenizer, data, length.think_end)
        self._instructions = {
            task.name: getattr(data, task.instruction_key) if task.instruction_key else task.instruction
            for task in TASKS.values()
        }
        self._max_prompt_tokens = length.max_prompt_tokens
        self._encoded: dict[str, list[int]] = {}

    def count_tokens(self, problem_text: str, task: str = "math") -> int:
        """Return the number of tokens of the prompt as the engine will see it."""
        return len(self._tokenize(problem_text, task))

    def encode(self, prompt_id: str, problem_text: str, task: str = "math") -> list[int]:
        """Return token ids, [prompt tokens].

        Raises:
            ValueError: the prompt is longer than length.max_prompt_tokens.
        """
        if prompt_id not in self._encoded:
            token_ids = self._tokenize(problem_text, task)
            if len(token_ids) > self._max_prompt_tokens:
                raise ValueError(
                    f"prompt {prompt_id} has {len(token_ids)} tokens with its instruction and chat template, "
                    f"length.max_prompt_tokens is {self._max_prompt_tokens}; raise it, or prepare the data "
                    "with a lower limit"
                )
            self._encoded[prompt_id] = token_ids
        return self._encoded[prompt_id]

    def encode_all(self, problems: Iterable[Problem]) -> None:
        """Encode every problem now, so that one that is too long ends a run at its start.

        Raises:
            ValueError: a prompt is longer than length.max_prompt_tokens.
        """
        for problem in problems:
            self.encode(problem.prompt_id, problem.prompt, problem.task)

    def _tokenize(self, problem_text: str, task: str) -> list[int]:
        instruction = self._instructions[task]
        return self._format.tokenize(f"{problem_text}\n{instruction}" if instruction else problem_text)
