"""The sandbox that programs written by the model run in."""
