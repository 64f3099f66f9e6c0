"""The training engine: DeepSpeed ZeRO-3 on any number of ranks, gloo on CPU, nccl on GPU. Only this file
imports deepspeed."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.utils import (
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
    set_log_level_from_string,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from torch import distributed as dist
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion
from transformers.integrations import HfDeepSpeedConfig
from transformers.utils import is_flash_attn_2_available

from scalerl.algo.losses import LOSSES
from scalerl.config import RunConfig
from scalerl.trainer.buffers import check_buffers, plain_buffers, restore_buffers
from scalerl.trainer.head import HeadConfig, LogprobHead
from scalerl.trainer.packing import MicroBatch

MOMENTS = ("exp_avg", "exp_avg_sq")
EXPORT_SHARD_ELEMENTS = 1 << 30
"""Parameters gathered at once, and in one file, when the model is exported."""


def init_distributed(timeout_s: float) -> dist.ProcessGroup:
    """Join the ranks of RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; returns a gloo group for
    small CPU messages."""
    set_log_level_from_string("warning")
    warnings.filterwarnings(
        "ignore", message=".*torch.distributed.*is deprecated", category=FutureWarning
    )  # deepspeed's calls
    on_cpu = get_accelerator().device_name() == "cpu"
    if on_cpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
            False  # or a C++ build starts at the first collective
        )
    else:
        get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    timeout = timedelta(seconds=timeout_s)
    deepspeed.init_distributed(dist_backend="gloo" if on_cpu else "nccl", timeout=timeout)
    return dist.new_group(backend="gloo", timeout=timeout)


def uses_flash_attention() -> bool:
    return get_accelerator().device_name() == "cuda" and is_flash_attn_2_available()


def deepspeed_config(config: RunConfig) -> dict:
    """ZeRO-3 with fp32 reductions; batch sizes are nominal, since the loss is normalised here (see
    `TrainingEngine.train`)."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "overlap_comm": False},
        "steps_per_print": 1 << 30,
    }


ReadSlice = Callable[[str, int, int], Tensor]
"""(key, length, numel) -> this rank's `length` elements of a flattened tensor of `numel`, zero beyond its
end."""


@dataclass(frozen=True, kw_only=True)
class StepStatistics:
    """Of one optimizer step, over all ranks and loss tokens. Not finite where the loss was not.

    loss: of the step. grad_norm: before clipping. applied: False if the gradient was not finite and the step
    left out. log_ratio_mean, log_ratio_max: of |log pi_train - log pi_gen|. clip_fraction: of tokens.
    entropy: mean, nats.
    """

    loss: float
    grad_norm: float
    applied: bool
    log_ratio_mean: float
    log_ratio_max: float
    clip_fraction: float
    entropy: float


class PolicyModel(nn.Module):
    """A Hugging Face causal language model that returns log-probabilities of given tokens instead of
    logits."""

    def __init__(self, model: Any, head: HeadConfig) -> None:
        super().__init__()
        self.model: Any = model
        self.head = LogprobHead(model.get_output_embeddings().weight, head)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """(logprobs [T], entropies [T]) of the loss tokens of a micro-batch."""
        hidden = self.model.get_decoder()(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
        ).last_hidden_state
        return self.head(hidden.flatten(0, 1)[batch.predictors], batch.targets)


class TrainingEngine:
    """Model and optimizer, sharded over the ranks. Every method is a collective: all ranks call it."""

    def __init__(self, config: RunConfig, model_path: Path | str, control: dist.ProcessGroup) -> None:
        """Load the Hugging Face model at `model_path`; the optimizer starts from zero (see
        `load_local_state`)."""
        self._config = config
        self._control = control
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device(get_accelerator().current_device_name())
        settings = deepspeed_config(config)
        constants = plain_buffers(model_path, getattr(torch, config.model.dtype))
        self.model = _load_model(config, model_path, settings)
        restore_buffers(self.model, constants)
        algo, trainer = config.algo, config.trainer
        head = HeadConfig(
            fp32=config.model.trainer_fp32_head,
            temperature=algo.temperature,
            chunk_tokens=trainer.logprob_chunk_tokens,
        )
        policy = PolicyModel(self.model, head)
        optimizer = config.optimizer
        self._adamw = torch.optim.AdamW(
            policy.parameters(),
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        )
        self._engine, *_ = deepspeed.initialize(model=policy, optimizer=self._adamw, config=settings)
        check_buffers(self.model, constants)
        self._engine.train()
        self.num_active_parameters = _num_active_parameters(self.model)

    def train(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepStatistics:
        """One optimizer step. Every rank brings the same number of micro-batches, at least one.

        The weights of the tokens hold the denominators over all ranks, so gradients must be summed: backward
        may not divide by the number of micro-batches, and the division by the number of ranks in the
        reduction is undone.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        sums = torch.zeros(5, dtype=torch.float64)
        worst = torch.zeros(1, dtype=torch.float64)
        for index, batch in enumerate(micro_batches, 1):
            self._engine.set_gradient_accumulation_boundary(index == len(micro_batches))
            loss, batch_sums, batch_worst = self._loss(batch.to(self.device))
            self._engine.backward(loss * self.world_size, scale_wrt_gas=False)
            sums += batch_sums.cpu()
            worst = torch.maximum(worst, batch_worst.cpu())
        self._engine.step()
        dist.all_reduce(sums, group=self._control)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=self._control)
        loss_sum, num_tokens, log_ratio_sum, num_clipped, entropy_sum = sums.tolist()
        return StepStatistics(
            loss=loss_sum,
            grad_norm=float(self._engine.get_global_grad_norm()),
            applied=self._engine.was_step_applied(),
            log_ratio_mean=log_ratio_sum / num_tokens,
            log_ratio_max=worst.item(),
            clip_fraction=num_clipped / num_tokens,
            entropy=entropy_sum / num_tokens,
        )

    def _loss(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, sums of [loss, tokens, |log ratio|, clipped, entropy], greatest |log ratio| [1])."""
        algo = self._config.algo
        logprobs, entropies = self._engine(batch)
        loss, metrics = LOSSES[algo.loss_type](
            logprobs, batch.generator_logprobs, batch.advantages, batch.weights, batch.sequence_ids, algo
        )
        real = batch.weights > 0
        log_ratios = torch.where(real, (logprobs.detach() - batch.generator_logprobs).abs(), 0.0)
        entropy = torch.where(real, entropies, 0.0).sum()
        sums = torch.stack([loss.detach(), real.sum(), log_ratios.sum(), metrics["clipped"], entropy])
        return loss, sums.double(), log_ratios.max().double().reshape(1)

    def export(self, folder: Path | None) -> None:
        """Write the model's safetensors files in model.dtype into `folder`; only rank 0 gives one."""
        assert (folder is not None) == (self.rank == 0)
        shards = list(_export_shards(self.model))
        index = {}
        for number, shard in enumerate(shards, 1):
            name = (
                "model.safetensors"
                if len(shards) == 1
                else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            )
            with deepspeed.zero.GatheredParameters([parameter for _, parameter in shard], modifier_rank=None):
                if folder is not None:
                    tensors = _published_tensors(self.model, shard)
                    save_file(tensors, folder / name, metadata={"format": "pt"})
                    index.update(dict.fromkeys(tensors, name))
        if folder is not None and len(shards) > 1:
            text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
            (folder / "model.safetensors.index.json").write_text(text)

    @property
    def adam_step(self) -> int:
        """Optimizer steps applied."""
        return max((int(state["step"]) for state in self._adamw.state.values()), default=0)

    def local_state(self) -> dict[str, Tensor]:
        """This rank's slices, on CPU: fp32 weights ("<parameter>|weight") and, after the first step, both
        Adam moments."""
        tensors = {}
        moments = MOMENTS if self.adam_step else ()
        for key, parameter in self.model.named_parameters():
            tensors[f"{key}|weight"] = safe_get_local_fp32_param(parameter).cpu().clone()
            for moment in moments:
                tensors[f"{key}|{moment}"] = safe_get_local_optimizer_state(parameter, moment).cpu().clone()
        return tensors

    def load_local_state(self, read: ReadSlice, adam_step: int) -> None:
        """Continue from a saved `local_state`; the engine must have been built from the export of the same
        moment."""
        moments = MOMENTS if adam_step else ()
        if adam_step:
            for flat in self._engine.optimizer.fp32_partitioned_groups_flat:
                self._adamw.state[flat] = {moment: torch.zeros_like(flat) for moment in MOMENTS}
                self._adamw.state[flat]["step"] = torch.tensor(float(adam_step))
        for key, parameter in self.model.named_parameters():
            length, numel = parameter.ds_tensor.numel(), parameter.ds_numel
            safe_set_local_fp32_param(parameter, read(f"{key}|weight", length, numel).to(self.device))
            for moment in moments:
                value = read(f"{key}|{moment}", length, numel).to(self.device)
                safe_set_local_optimizer_state(parameter, value, moment)

    def barrier(self) -> None:
        dist.barrier(group=self._control)


def _load_model(config: RunConfig, path: Path | str, settings: dict) -> Any:
    partitioning = HfDeepSpeedConfig(settings)  # from_pretrained partitions while this object lives
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, config.model.dtype),
        attn_implementation="flash_attention_2" if uses_flash_attention() else "sdpa",
    )
    del partitioning
    if config.trainer.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
    return model


def _num_active_parameters(model: Any) -> int:
    """Parameters that compute one token: of the experts of a layer, held in parameters [experts, ...], those
    it is routed to."""
    active = 0
    for key, parameter in model.named_parameters():
        if ".experts." in key:
            active += parameter.ds_numel // parameter.ds_shape[0] * model.config.num_experts_per_tok
        else:
            active += parameter.ds_numel
    return active


def _published_tensors(model: Any, shard: list[tuple[str, Any]]) -> dict[str, Tensor]:
    """Copies on CPU under the names of published models: Transformers holds all experts of a layer in one
    parameter."""
    tensors = revert_weight_conversion(model, {key: parameter.detach().cpu() for key, parameter in shard})
    return {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}


def _export_shards(model: Any) -> Iterator[list[tuple[str, Any]]]:
    shard: list[tuple[str, Any]] = []
    elements = 0
    for key, parameter in model.named_parameters():
        if shard and elements + parameter.ds_numel > EXPORT_SHARD_ELEMENTS:
            yield shard
            shard, elements = [], 0
        shard.append((key, parameter))
        elements += parameter.ds_numel
    yield shard
