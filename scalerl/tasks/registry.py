"""The tasks there are: adding one means writing a file like math.py and an entry here."""

from scalerl.common.names import suggest
from scalerl.tasks.code import Code
from scalerl.tasks.math import Math
from scalerl.tasks.reasoning_gym import ReasoningGym
from scalerl.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (Math(), Code(), ReasoningGym())}


def find_task(name: str) -> Task:
    """Return the task of this name.

    Raises:
        ValueError: there is none, with the names there are.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; {suggest(name, TASKS)}")
    return TASKS[name]
