"""Sampling with vLLM: the in-process engine, in-flight weight reload, forced interruptions, prompts. The only
vllm import."""
