"""The vLLM engine, in this process: token ids in, sampled token ids with logprobs and policy versions out.

`reload` swaps the weights between two steps while requests run (in-flight update). Their KV cache stays as it
is, their next tokens come from the new policy. vLLM reports for each request which spans of its tokens were
sampled with which weights; these spans become the policy versions of the tokens. CPU (tests, demo) and CUDA
share the code.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalerl.config import RunConfig

BLOCK_TOKENS_CPU = 32
"""Tokens of a KV cache block on CPU; with the default of 128 short prompts miss the prefix cache."""

_ENVIRONMENT = {
    # The engine runs in this process, so that a reload falls exactly between two steps.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # The same sampler on CPU and CUDA.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Variables that must have these values."""
_ENVIRONMENT_DEFAULTS = {"VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What an engine is started with."""

    dtype: str
    """Dtype of the body: "bfloat16" or "float32"."""
    fp32_head: bool
    """Compute logits in fp32, whatever the dtype of the body."""
    max_tokens: int
    """Context length in tokens, prompt included."""
    max_num_seqs: int
    """Requests that run at once."""
    kv_cache_gb: float
    """GiB of KV cache; 0 lets vLLM decide, on a GPU only."""
    temperature: float
    """Divisor of the logits."""
    seed: int
    """Seed of the sampler."""
    tensor_parallel_size: int = 1
    """Devices the engine spans."""
    random_start: bool = False
    """Start with random weights, in the shapes of the policy: only what a reload replaces is right then."""

    @classmethod
    def of(cls, config: RunConfig, seed: int, *, random_start: bool = False) -> "EngineOptions":
        """Return the options of a run's engines; generator and evaluator sample alike."""
        return cls(
            dtype=config.model.dtype,
            fp32_head=config.model.generator_fp32_head,
            max_tokens=config.length.max_tokens,
            max_num_seqs=config.generator.max_num_seqs,
            kv_cache_gb=config.generator.kv_cache_gb,
            temperature=config.algo.temperature,
            seed=seed,
            tensor_parallel_size=config.generator.tensor_parallel_size,
            random_start=random_start,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """What one request sampled: T tokens, the last of them the end-of-sequence token if it was sampled."""

    request_id: str
    """Name its caller gave it."""
    token_ids: list[int]
    """[T] token ids."""
    logprobs: list[float]
    """[T] log-probabilities in nats, temperature included."""
    policy_versions: list[int]
    """[T] version of the policy that sampled each token."""
    stopped: bool
    """True if an end-of-sequence token ended it, false if its token limit did."""


def import_vllm() -> None:
    """Set vLLM's environment and import it.

    That takes about eight seconds, so a role does it while it waits for the trainer.
    """
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
        self._tensors = policy_tensors(folder)
        self._engine = _start(folder, options)
        self._requests: dict[str, Any] = {}
        self._versions: dict[str, int] = {}
        self._confirm(folder.name, policy_version)

    @property
    def num_running(self) -> int:
        """Return how many requests were submitted and are not finished."""
        return self._engine.get_num_unfinished_requests()

    def submit(self, request_id: str, token_ids: Sequence[int], *, max_tokens: int, cache_salt: str) -> None:
        """Begin to sample up to `max_tokens` tokens after `token_ids`.

        Prefixes are shared only among requests of one `cache_salt`.
        """
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        # logprobs=0 asks for the log-probability of the sampled token alone. A request is reported once, at
        # its end: nothing here needs its tokens earlier.
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
        name = self._engine.add_request(request_id, prompt, params, arrival_time=time.time())
        # The scheduler's own record. It lives in this process; nothing public tells what was sampled so far
        # but outputs of every step, which cost the engine time.
        self._requests[request_id] = self._engine.engine_core.engine_core.scheduler.requests[name]

    def sampled(self, request_id: str, begin: int = 0) -> list[int]:
        """Return the token ids that a running request has sampled so far, from the index `begin` on."""
        return self._requests[request_id].output_token_ids[begin:]

    def limit(self, request_id: str, max_tokens: int) -> None:
        """Let a running request sample `max_tokens` tokens in all, or one more if it has as many already."""
        # What vLLM holds against the number of sampled tokens after every step.
        self._requests[request_id].max_tokens = max_tokens

    def step(self) -> list[Segment]:
        """Sample one token for every request that vLLM schedules; return the requests that finished."""
        return [self._segment(output) for output in self._engine.step() if output.finished]

    def abort(self, request_ids: Sequence[str]) -> None:
        """Drop running requests; `step` does not return them any more."""
        self._engine.abort_request(list(request_ids))
        for request_id in request_ids:
            del self._requests[request_id]

    def reload(self, folder: Path, policy_version: int) -> float:
        """Serve the weights of `folder` from the next step on; return the seconds it took.

        Raises:
            FileNotFoundError: the folder is gone; the engine goes on with the policy it had.
            ValueError: it lacks tensors of the first policy, or has others; the engine goes on as well.
            RuntimeError: a worker does not serve the new policy afterwards.
        """
        begin_s = time.monotonic()
        # vLLM keeps the old weights of a layer that a reload does not mention, without a word. The first
        # policy had every parameter, or vLLM would not have started. Checked before any worker begins: an
        # error in one of several leaves vLLM's executor unusable.
        if (found := policy_tensors(folder)) != self._tensors:
            raise ValueError(f"{folder} is no policy of this run: {_difference(found, self._tensors)}")
        self._engine.collective_rpc("load_policy", args=(str(folder),))
        self._confirm(folder.name, policy_version)
        return time.monotonic() - begin_s

    def shutdown(self) -> None:
        """End the workers and free the device."""
        self._engine.engine_core.shutdown()

    def _confirm(self, name: str, policy_version: int) -> None:
        """Ask every worker what it serves, and only then attribute tokens to this policy."""
        # A worker that silently kept its old weights would spoil every rollout after it.
        served = self._engine.collective_rpc("served_policy")
        if set(served) != {name}:
            raise RuntimeError(f"the engine was given the policy {name}, but its workers serve {served}")
        # vLLM marks tokens by the folder's name. Earlier names stay known: what runs on has spans of them.
        self._versions[name] = policy_version
        self._engine.set_weight_version(name)
        self.policy_name, self.policy_version = name, policy_version

    def _segment(self, output: Any) -> Segment:
        """Return what a finished request sampled, each token with the policy that sampled it."""
        del self._requests[output.request_id]
        completion = output.outputs[0]
        policy_versions: list[int] = []
        # A span [start, end) of tokens was sampled with one policy; every reload begins a new one.
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


def policy_tensors(folder: Path) -> dict[str, str]:
    """Return the tensors of a policy's files by name, with dtype and shape, such as "BF16 [2, 3]".

    Raises:
        FileNotFoundError: there is no such folder, or no such file in it.
    """
    from safetensors import safe_open

    tensors: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            tensors |= {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in slices.items()}
    if not tensors:
        raise FileNotFoundError(f"{folder} holds no *.safetensors file")
    return tensors


def _difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """Name the first tensors that one policy has and the other has not, or has otherwise."""
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    texts = [
        f"{name} is {found.get(name, 'missing')}, not {expected.get(name, 'there')}" for name in wrong[:3]
    ]
    return "; ".join(texts) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")


def _start(folder: Path, options: EngineOptions) -> Any:
    """Start vLLM with the model in `folder`.

    Raises:
        ValueError: vLLM does not take it for a model that generates text.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = EngineArgs(
        model=str(folder),
        dtype=options.dtype,
        max_model_len=options.max_tokens,
        max_num_seqs=options.max_num_seqs,
        tensor_parallel_size=options.tensor_parallel_size,
        seed=options.seed,
        load_format="dummy" if options.random_start else "auto",
        enable_prefix_caching=True,
        async_scheduling=False,  # with it, version spans are off by one token after a reload
        logprobs_mode="processed_logprobs",  # of the distribution sampled from: temperature included
        worker_extension_cls="scalerl.inference.worker.PolicyWorker",
        disable_log_stats=True,
        **_device_arguments(options),
    )
    # vLLM tells by the architecture what a model is for, and without one would serve embeddings.
    runner = arguments.create_model_config().runner_type
    if runner != "generate":
        raise ValueError(
            f"vLLM takes {folder} for a model of {runner}, not to generate: check `architectures` in its "
            f"config.json"
        )
    return LLMEngine.from_engine_args(arguments)


def _device_arguments(options: EngineOptions) -> dict[str, Any]:
    """Return the engine arguments that depend on the machine, and those that are set only where needed."""
    from vllm.platforms import current_platform

    arguments: dict[str, Any] = {}
    if current_platform.is_cpu():
        if options.kv_cache_gb == 0:
            raise ValueError(
                "generator.kv_cache_gb is 0, which lets a GPU decide; on a CPU set it, "
                "0.5 will do for a tiny model"
            )
        arguments |= {"enforce_eager": True, "block_size": BLOCK_TOKENS_CPU}
    if options.kv_cache_gb:
        arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gb * 2**30)
    if options.fp32_head:
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    return arguments
