"""The generator: samples the admitted prompt groups without a pause, grades them, and publishes each group
that is whole."""

from scalerl.generator.loop import run_generator

__all__ = ["run_generator"]
