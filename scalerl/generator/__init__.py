"""The generator: sample the admitted prompt groups without a pause, grade them, publish those that are whole.

loop.py        the process and its rounds
follow.py      watches for new policies, and checks their weights, beside the engine
unfinished.py  a prompt group on its way
"""

from scalerl.generator.loop import run_generator

__all__ = ["run_generator"]
