"""What runs inside every vLLM worker: it reloads weights in place, and says which policy they are."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

# It warns at every reload of what has no tensor of its own in a checkpoint: a tied head, rotary tables.
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)


class PolicyWorker:
    """Methods that vLLM mixes into its worker class (worker_extension_cls), called by `collective_rpc`."""

    device: torch.device
    model_runner: Any
    model_config: Any
    reload_weights: Any

    def load_policy(self, folder: str) -> None:
        """Replace the weights by those of a published folder; running requests keep their KV cache.

        Raises:
            FileNotFoundError: the folder is gone; the weights in use are untouched, since every file is
                opened beforehand.
            RuntimeError: vLLM left the experts as they were.
        """
        paths = sorted(Path(folder).glob("*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"{folder} holds no *.safetensors file")
        with ExitStack() as stack:
            # All are opened before the first weight is replaced: a policy is swapped whole or not at all.
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
            self._forget_expert_kernels()
            self._add_head_bias(files)
            self.reload_weights(weights_iterator=_tensors(files))
        self._check_experts()
        self._repack_tied_head()
        self._loaded_policy = Path(folder).name

    def served_policy(self) -> str:
        """Return the name of the folder whose weights this worker computes with."""
        # Until the first reload it is the model that vLLM was started with.
        return getattr(self, "_loaded_policy", Path(self.model_config.model).name)

    def _forget_expert_kernels(self) -> None:
        """Have the reload pack the weights of experts again."""
        # On CPU experts compute with packed weights, which vLLM packs only where it builds their kernel: a
        # reload that finds a kernel puts plain weights in their place, without an error.
        for module in self._experts():
            module.quant_method.moe_kernel = None

    def _check_experts(self) -> None:
        """Refuse a policy whose experts the reload has not packed: they are still those of the one before."""
        if any(module.quant_method.moe_kernel is None for module in self._experts()):
            # vLLM counts what goes through a parameter's loader; some models copy past it, such as GPT-OSS.
            name = type(self.model_runner.get_model()).__name__
            raise RuntimeError(f"vLLM cannot reload {name} in flight: its experts stay as they were")

    def _experts(self) -> list[Any]:
        """Return the modules of experts that compute with packed weights, those on a CPU."""
        if self.device.type != "cpu":
            return []
        from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts

        return [
            module for module in self.model_runner.get_model().modules() if isinstance(module, RoutedExperts)
        ]

    def _add_head_bias(self, files: list[Any]) -> None:
        """Give the head the bias that the policy has."""
        # For Phi vLLM makes it as it loads a checkpoint: an engine that began with random weights has none,
        # and the reload would throw away what it makes.
        if any(name.endswith("lm_head.bias") for file in files for name in file.keys()):  # noqa: SIM118
            for head in self._heads():
                if head.bias is None:
                    with self.device:
                        head._register_bias()

    def _heads(self) -> list[Any]:
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        return [
            module for module in self.model_runner.get_model().modules() if isinstance(module, ParallelLMHead)
        ]

    def _repack_tied_head(self) -> None:
        """Renew the packed weight of a head that is tied to the embedding."""
        if self.device.type != "cpu":
            return
        # On CPU a linear layer computes with a packed copy of its weight. The reload renews the copies of all
        # layers that have weights of their own in the checkpoint, hence not that of a head tied to the
        # embedding.
        for head in self._heads():
            head.quant_method.process_weights_after_loading(head)


def _tensors(files: list[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and content of every tensor in the files."""
    for file in files:
        for name in file.keys():  # noqa: SIM118 (not a mapping)
            yield name, file.get_tensor(name)
