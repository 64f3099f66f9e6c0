"""The vLLM engine, in this process: token ids in, sampled token ids with logprobs and per-token policy
versions out.
 `reload` swaps the weights between two steps while requests run (in-flight update): their KV cache stays as
it is, their next tokens come from the new policy. Two environments are supported with the same code: CPU
(tests, demo) and CUDA.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalerl.config import RunConfig

BLOCK_TOKENS_CPU = 32  # the default of 128 makes short prompts miss the prefix cache

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process: reload falls exactly between two steps
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the same sampler on CPU and CUDA
    "VLLM_NO_USAGE_STATS": "1",
}
_ENVIRONMENT_DEFAULTS = {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What an engine is started with; `max_tokens` is the context length, prompt included."""

    dtype: str
    fp32_head: bool
    max_tokens: int
    max_num_seqs: int
    kv_cache_gb: float
    temperature: float
    seed: int
    tensor_parallel_size: int = 1

    @classmethod
    def of(cls, config: RunConfig, seed: int) -> "EngineOptions":
        """The engine of a run; generator and evaluator sample alike."""
        return cls(
            dtype=config.model.dtype,
            fp32_head=config.model.generator_fp32_head,
            max_tokens=config.length.max_tokens,
            max_num_seqs=config.generator.max_num_seqs,
            kv_cache_gb=config.generator.kv_cache_gb,
            temperature=config.algo.temperature,
            seed=seed,
            tensor_parallel_size=config.generator.tensor_parallel_size,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """What one request sampled. Lists are [tokens]; the end-of-sequence token, if sampled, is the last of
    them.

    logprobs: natural log, temperature included. stopped: ended by an end-of-sequence token, not by its token
    limit.
    """

    request_id: str
    token_ids: list[int]
    logprobs: list[float]
    policy_versions: list[int]
    stopped: bool


def import_vllm() -> None:
    """Set vLLM's environment and import it, which takes about eight seconds; a role does it while it waits
    for the trainer."""
    os.environ.update(_ENVIRONMENT)
    for name, value in _ENVIRONMENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import vllm.v1.engine.llm_engine  # noqa: F401


class SamplingEngine:
    """One vLLM engine that serves one policy at a time, known by its folder's name and its policy version."""

    def __init__(self, folder: Path, policy_version: int, options: EngineOptions) -> None:
        """Start the engine from a Hugging Face folder.

        Raises:
            ValueError: kv_cache_gb is 0 on a machine without a GPU.
        """
        import_vllm()
        self._temperature = options.temperature
        self._engine = _start(folder, options)
        self._versions: dict[str, int] = {}
        self._confirm(folder.name, policy_version)

    @property
    def num_running(self) -> int:
        """Requests submitted and not finished."""
        return self._engine.get_num_unfinished_requests()

    def submit(self, request_id: str, token_ids: Sequence[int], *, max_tokens: int, cache_salt: str) -> None:
        """Sample up to `max_tokens` tokens after `token_ids`. Prefixes are shared only among requests of one
        `cache_salt`."""
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(
            temperature=self._temperature,
            max_tokens=max_tokens,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )
        prompt = tokens_input(list(token_ids), cache_salt=cache_salt)
        self._engine.add_request(request_id, prompt, params, arrival_time=time.time())

    def step(self) -> list[Segment]:
        """Sample one token for every running request (vLLM's scheduler permitting); returns the requests that
        finished."""
        return [self._segment(output) for output in self._engine.step() if output.finished]

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drop running requests; `step` does not return them any more."""
        self._engine.abort_request(list(request_ids))

    def reload(self, folder: Path, policy_version: int) -> float:
        """Serve the weights of `folder` from the next step on; returns the seconds it took.

        Raises:
            FileNotFoundError: the folder is gone; the engine goes on with the policy it had.
            RuntimeError: a worker does not serve the new policy afterwards.
        """
        begin_s = time.monotonic()
        self._engine.collective_rpc("load_policy", args=(str(folder),))
        self._confirm(folder.name, policy_version)
        return time.monotonic() - begin_s

    def shutdown(self) -> None:
        """End the workers and free the device."""
        self._engine.engine_core.shutdown()

    def _confirm(self, name: str, policy_version: int) -> None:
        """Ask every worker what it serves; only then are tokens attributed to this policy."""
        served = self._engine.collective_rpc("served_policy")
        if set(served) != {name}:
            raise RuntimeError(f"the engine was given the policy {name}, but its workers serve {served}")
        self._versions[name] = policy_version
        self._engine.set_weight_version(name)
        self.policy_name, self.policy_version = name, policy_version

    def _segment(self, output: Any) -> Segment:
        completion = output.outputs[0]
        policy_versions: list[int] = []
        for span in completion.weight_versions:
            assert span.start == len(policy_versions)
            policy_versions += [self._versions[span.version]] * (span.end - span.start)
        token_ids = list(completion.token_ids)
        logprobs = completion.logprobs.logprobs
        assert len(token_ids) == len(logprobs) == len(policy_versions)
        return Segment(
            request_id=output.request_id,
            token_ids=token_ids,
            logprobs=logprobs,
            policy_versions=policy_versions,
            stopped=completion.finish_reason == "stop",
        )


def _start(folder: Path, options: EngineOptions) -> Any:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments: dict[str, Any] = {}
    if current_platform.is_cpu():
        if options.kv_cache_gb == 0:
            raise ValueError(
                "generator.kv_cache_gb is 0, which lets a GPU decide; on a CPU set it, 0.5 will do for a tiny model"
            )
        arguments |= {"enforce_eager": True, "block_size": BLOCK_TOKENS_CPU}
    if options.kv_cache_gb:
        arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gb * 2**30)
    if options.fp32_head:
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(folder),
            dtype=options.dtype,
            max_model_len=options.max_tokens,
            max_num_seqs=options.max_num_seqs,
            tensor_parallel_size=options.tensor_parallel_size,
            seed=options.seed,
            enable_prefix_caching=True,
            async_scheduling=False,  # with it, version spans are off by one token after a reload
            logprobs_mode="processed_logprobs",  # of the distribution sampled from: temperature included
            worker_extension_cls="scalerl.inference.worker.PolicyWorker",
            disable_log_stats=True,
            **arguments,
        )
    )
