"""Sampling with vLLM, which only this package imports.

engine.py      the engine in this process, and its reload of weights in flight
worker.py      the part of the reload that runs in vLLM's workers
completion.py  whole completions, with forced interruptions of the thinking
prompts.py     problems as token ids
"""
