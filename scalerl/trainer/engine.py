"""The training engine: DeepSpeed ZeRO-3 on any number of ranks, over gloo on CPU and nccl on GPU.

Only this file, export.py and model/loading.py import deepspeed.
"""

import os
import socket
import warnings
from collections.abc import Callable, Sequence
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
from torch import Tensor
from torch import distributed as dist

from scalerl.algo.losses import LOSSES
from scalerl.config import OptimizerConfig, RunConfig
from scalerl.trainer.export import export_model
from scalerl.trainer.model.buffers import check_buffers, plain_buffers, restore_buffers
from scalerl.trainer.model.head import HeadConfig
from scalerl.trainer.model.loading import load_model, uses_flash_attention
from scalerl.trainer.model.policy import PolicyModel
from scalerl.trainer.model.separation import choose_layout
from scalerl.trainer.packing import Layout, MicroBatch

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Names of Adam's two moments in the state of the optimizer."""


def init_distributed(timeout_s: float) -> dist.ProcessGroup:
    """Join the other ranks, and return a gloo group for small messages between CPUs.

    RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT must be set.
    """
    set_log_level_from_string("warning")
    # DeepSpeed itself calls what torch has deprecated.
    warnings.filterwarnings("ignore", message=".*torch.distributed.*is deprecated", category=FutureWarning)
    on_cpu = get_accelerator().device_name() == "cpu"
    if on_cpu:
        # Otherwise the first collective starts a C++ build of shared-memory collectives.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    else:
        get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    timeout = timedelta(seconds=timeout_s)
    backend = "gloo" if on_cpu else "nccl"
    # Before the first collective: over a wrong network it hangs, and then this is the last line of the log.
    print(f"trainer-{os.environ['RANK']}: {backend}, {_network()}")
    deepspeed.init_distributed(dist_backend=backend, timeout=timeout)
    # A group of its own for objects and sums on CPU: nccl would take them through the device.
    return dist.new_group(backend="gloo", timeout=timeout)


def _network() -> str:
    """Say where this rank meets the others, and the address under which gloo offers it to them."""
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError as error:
        address = str(error)
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    chosen = [f"; {name}={os.environ[name]}" for name in names if name in os.environ]
    meeting = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    return f"{os.environ['WORLD_SIZE']} ranks meet at {meeting}; {host} is {address}{''.join(chosen)}"


def deepspeed_config(config: RunConfig) -> dict:
    """Return DeepSpeed's settings: ZeRO-3 with reductions in fp32."""
    return {
        # The batch sizes are nominal: the weights of the tokens normalise the loss (see
        # `TrainingEngine.train`).
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
end.
"""


@dataclass(frozen=True, kw_only=True)
class StepStatistics:
    """Numbers of one optimizer step, over all ranks and loss tokens; not finite where the loss was not."""

    loss: float
    """Loss of the step."""
    grad_norm: float
    """L2 norm of the gradient, before clipping."""
    applied: bool
    """False if the gradient was not finite and the step was left out."""
    log_ratio_mean: float
    """Mean of |log pi_train - log pi_gen|, in nats."""
    log_ratio_max: float
    """Greatest |log pi_train - log pi_gen|, in nats."""
    clip_fraction: float
    """Share of tokens whose ratio was clipped."""
    entropy: float
    """Mean entropy of the distribution of a token, in nats."""


class TrainingEngine:
    """Model and optimizer, sharded over the ranks. Every method is a collective: all ranks call it."""

    def __init__(self, config: RunConfig, model_path: Path | str, control: dist.ProcessGroup) -> None:
        """Load the Hugging Face model at `model_path`, with an optimizer that starts from zero.

        `load_local_state` then continues from a checkpoint. control: the group that `init_distributed`
        returned.

        Raises:
            ValueError: a constant of the model differs from a plain load (`buffers.check_buffers`), or it is
                not a body with one linear head on top.
        """
        self._config = config
        self._control = control
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.device = torch.device(get_accelerator().current_device_name())
        settings = deepspeed_config(config)
        constants = plain_buffers(model_path, getattr(torch, config.model.dtype))
        self.model = load_model(config, model_path, settings)
        restore_buffers(self.model, constants)
        policy = PolicyModel(self.model, _head_config(config))
        self._adamw = _adamw(policy, config.optimizer)
        self._engine, *_ = deepspeed.initialize(model=policy, optimizer=self._adamw, config=settings)
        check_buffers(self.model, constants)  # again: DeepSpeed moves and casts a model that it takes
        self.layout = self._choose_layout()
        """How `packing.pack` must lay out sequences for this model."""
        self._engine.train()
        self.num_active_parameters = _num_active_parameters(self.model)

    def _choose_layout(self) -> Layout:
        """Return the layout that rank 0 found to suit the model."""
        self._engine.eval()
        layout = choose_layout(
            self._engine,
            self.model,
            flash_attention=uses_flash_attention(self.model),
            device=self.device,
        )
        # Other ranks may have rounded otherwise, and all must make the same micro-batches.
        box = [layout]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def train(self, micro_batches: Sequence[MicroBatch], learning_rate: float) -> StepStatistics:
        """Do one optimizer step, unless the gradient is not finite; return its numbers.

        Every rank must bring the same number of micro-batches, at least one: each of them is a collective.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        # The weights of the tokens hold the denominators over all ranks, so gradients must add up, over
        # micro-batches and over ranks. Hence backward may not divide by the number of micro-batches, and the
        # factor world_size undoes the mean over ranks that the reduction takes.
        sums = torch.zeros(5, dtype=torch.float64)
        worst = torch.zeros(1, dtype=torch.float64)
        for index, batch in enumerate(micro_batches, 1):
            self._engine.set_gradient_accumulation_boundary(index == len(micro_batches))
            loss, batch_sums, batch_worst = self._loss(batch.to(self.device))
            self._engine.backward(loss * self.world_size, scale_wrt_gas=False)
            sums += batch_sums.cpu()
            worst = torch.maximum(worst, batch_worst.cpu())
        self._engine.step()
        return self._statistics(sums, worst)

    @torch.no_grad()
    def logprobs(self, micro_batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Return the log-probabilities of the loss tokens of every micro-batch, on CPU, in nats.

        Every rank must bring the same number of micro-batches.
        """
        self._engine.eval()
        found = [self._engine(batch.to(self.device))[0].cpu() for batch in micro_batches]
        self._engine.train()
        return found

    def _loss(self, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a micro-batch and what `_statistics` needs of it.

        Returns:
            (loss, [5] sums of loss, tokens, |log ratio|, clipped tokens, entropy; [1] greatest |log ratio|).
        """
        algo = self._config.algo
        logprobs, entropies = self._engine(batch)
        loss, metrics = LOSSES[algo.loss_type](
            logprobs, batch.generator_logprobs, batch.advantages, batch.weights, batch.sequence_ids, algo
        )
        real = batch.weights > 0  # not the tokens of a dummy, which only takes part in the collectives
        log_ratios = torch.where(real, (logprobs.detach() - batch.generator_logprobs).abs(), 0.0)
        entropy = torch.where(real, entropies, 0.0).sum()
        sums = torch.stack([loss.detach(), real.sum(), log_ratios.sum(), metrics["clipped"], entropy])
        return loss, sums.double(), log_ratios.max().double().reshape(1)

    def _statistics(self, sums: Tensor, worst: Tensor) -> StepStatistics:
        """Return the numbers of the step just done, from the sums and maxima of every rank (see `_loss`)."""
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

    def export(self, folder: Path | None) -> None:
        """Write the model's safetensors files in model.dtype into `folder`; only rank 0 gives one."""
        assert (folder is not None) == (self.rank == 0)
        export_model(self.model, folder)

    @property
    def adam_step(self) -> int:
        """Return the number of optimizer steps applied."""
        return max((int(state["step"]) for state in self._adamw.state.values()), default=0)

    def local_state(self) -> dict[str, Tensor]:
        """Return copies on CPU of this rank's slices of all parameters, by "<parameter>|<what>".

        What: weight, in fp32, and after the first step exp_avg and exp_avg_sq, the Adam moments.
        """
        tensors = {}
        moments = MOMENTS if self.adam_step else ()
        for key, parameter in self.model.named_parameters():
            tensors[f"{key}|weight"] = safe_get_local_fp32_param(parameter).cpu().clone()
            for moment in moments:
                tensors[f"{key}|{moment}"] = safe_get_local_optimizer_state(parameter, moment).cpu().clone()
        return tensors

    def load_local_state(self, read: ReadSlice, adam_step: int) -> None:
        """Continue from a saved `local_state`.

        The engine must have been built from the model exported at the same moment: `safe_set` writes fp32
        weights and moments, while the copy that the model computes with is the one it was loaded with.
        """
        moments = MOMENTS if adam_step else ()
        if adam_step:
            # Adam makes its state in its first step, so a fresh engine has none that could be filled.
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
        """Wait until all ranks are here."""
        dist.barrier(group=self._control)


def _head_config(config: RunConfig) -> HeadConfig:
    return HeadConfig(
        fp32=config.model.trainer_fp32_head,
        temperature=config.algo.temperature,
        chunk_tokens=config.trainer.logprob_chunk_tokens,
    )


def _adamw(policy: PolicyModel, optimizer: OptimizerConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        policy.parameters(),
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )


def _num_active_parameters(model: Any) -> int:
    """Count the parameters that compute one token.

    Of the experts of a layer, held in parameters [experts, ...], those count that a token is routed to.
    """
    active = 0
    for key, parameter in model.named_parameters():
        if ".experts." in key:
            active += parameter.ds_numel // parameter.ds_shape[0] * model.config.num_experts_per_tok
        else:
            active += parameter.ds_numel
    return active
