"""Record what the loss function of TRL's GRPOTrainer makes of two prompts x two completions: trl.json, which
test_trl.py reads.

pip install trl==1.16.0 && python tests/algo/record_trl.py

A record, since importing TRL takes ten seconds and brings packages that nothing else here needs.
"""

import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from trl import GRPOTrainer

LENGTHS = [1, 3, 2, 4]
ADVANTAGES = [1.0, -1.0, 0.5, -0.5]
CASES: dict[str, dict[str, Any]] = {
    "cispo token": {"loss_type": "cispo", "epsilon_high": 2.0},
    "dapo token": {"loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": 0.26},
    "dapo sample": {"loss_type": "grpo", "epsilon_low": 0.2, "epsilon_high": 0.26},
    "grpo token": {"loss_type": "bnpo", "epsilon_low": 0.2, "epsilon_high": 0.2},
    "grpo sample": {"loss_type": "grpo", "epsilon_low": 0.2, "epsilon_high": 0.2},
    "gspo sample": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon_low": 3e-3,
        "epsilon_high": 4e-3,
    },
}
"""Our loss and aggregation -> TRL's settings, where the definitions are the same. TRL knows no average over a
prompt's tokens."""


class Trainer(SimpleNamespace):
    """As much of a GRPOTrainer as its loss reads: no KL term, no masks, one process, one micro-batch."""

    def __init__(self, logprobs: torch.Tensor, **settings: Any) -> None:
        one_process = SimpleNamespace(
            num_processes=1, reduce=lambda value, **_: value, gather=lambda value: value
        )
        defaults = {"importance_sampling_level": "token", "epsilon_low": 0.0, "beta": 0.0, "use_vllm": False}
        defaults |= {
            "top_entropy_quantile": 1.0,
            "off_policy_mask_threshold": None,
            "aux_loss_enabled": False,
        }
        defaults |= {"_entropy_bonus_enabled": False, "current_gradient_accumulation_steps": 1}
        super().__init__(**(defaults | settings))
        self.args = SimpleNamespace(delta=None, steps_per_generation=1)
        self.accelerator = one_process
        self.model = SimpleNamespace(training=True)
        self._metrics: dict[str, Any] = {"train": defaultdict(list)}
        self._get_per_token_logps_and_entropies = lambda *_, **__: (
            logprobs,
            torch.zeros_like(logprobs),
            None,
        )


def main() -> None:
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).double()
    random = torch.Generator().manual_seed(0)
    generator_logprobs = -2 * torch.rand(mask.shape, generator=random, dtype=torch.float64) - 0.1
    log_ratios = 0.4 * torch.randn(mask.shape, generator=random, dtype=torch.float64)
    log_ratios[1, 0] = 1.0  # beyond CISPO's cap
    values = generator_logprobs + log_ratios
    inputs = {name: mask.long() for name in ("prompt_ids", "prompt_mask", "completion_ids")}
    inputs |= {"completion_mask": mask, "advantages": torch.tensor(ADVANTAGES, dtype=torch.float64)}
    inputs |= {"old_per_token_logps": generator_logprobs, "num_items_in_batch": mask.sum()}
    recorded: dict[str, Any] = {"trl": version("trl"), "lengths": LENGTHS, "advantages": ADVANTAGES}
    recorded |= {
        "logprobs": values[mask > 0].tolist(),
        "generator_logprobs": generator_logprobs[mask > 0].tolist(),
    }
    recorded["cases"] = {}
    for name, settings in CASES.items():
        logprobs = values.clone().requires_grad_()
        loss = GRPOTrainer._compute_loss(Trainer(logprobs, **settings), None, inputs)
        loss.backward()
        gradient = logprobs.grad
        assert gradient is not None
        recorded["cases"][name] = settings | {"loss": loss.item(), "gradient": gradient[mask > 0].tolist()}
    Path(__file__).with_name("trl.json").write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
