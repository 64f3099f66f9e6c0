"""Signs that training goes wrong, read from the metric rows of a run: their levels, and what to do.

Every sign is a mean over the newest WINDOW_STEPS optimizer steps that is held against a level, so that a
single odd step raises no alarm; except "no_reward", the steps since the start, "pass_rate", the newest
evaluation, and "not_finite", a step.
"""

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from scalerl.config import AlarmKind
from scalerl.metrics.rows import EvalRow, Rows, StepRow
from scalerl.run_folder import Alarm

WINDOW_STEPS = 20
BASELINE_STEPS = 100
"""Steps before the window that a gradient norm is compared with; fewer at the start, but at least
WINDOW_STEPS."""

NO_REWARD_STEPS = 5
"""Steps from the start without one correct completion, 3,840 in ScaleRL's batch. Nothing is learnt from
them, and a model that could learn rarely begins so low: something is set wrong."""
NO_ANSWER_LEVEL = 0.5
"""Share of completions. A base model may miss the answer's format at times; where most are without an answer,
the limits, the template or the prompt do not fit the model."""
ZERO_VARIANCE_LEVEL = 0.8
"""Share of groups, dropped or not. Only the others teach. Of groups of 16 with a pass rate of p a share of
p^16 + (1 - p)^16 have equal rewards: .8 is that of p = .014 and of p = .986."""
TRUNCATION_LEVEL = 0.10
"""Share of completions. Runs with 10-15 % became unstable and did not recover; ScaleRL stays below 5 %
(paper, appendix A.15)."""
ENTROPY_LOW_FACTOR = 0.1
"""Share of the first window's entropy. A healthy run halves it (.29 to .15; paper, appendix A.12), and a low
one predicts nothing in the paper; at a tenth all completions of a prompt are alike, no reward varies and
nothing is left to learn from."""
ENTROPY_HIGH_FACTOR = 2.0
"""Multiple of the first window's entropy. In the paper entropy only ever falls; doubled, the policy is
turning into noise."""
LOG_RATIO_LEVEL = 0.2
"""Mean |log pi_train - log pi_gen|, nats a token. The average token is then beyond the clip range of GRPO and
DAPO: the engines disagree, or the rollouts are too stale for their policy gradient to hold."""
GRAD_NORM_FACTOR = 5.0
"""Multiple of the median of the BASELINE_STEPS before the window. One step a hundred times as steep, or five
steps twenty times, raise it; clipping hides both from the weights, not from what they announce."""
PASS_RATE_LEVEL = 0.15
"""Drop from the best evaluation so far, which in a reward of [-1, 1] is .3. Chance moves an evaluation of
1,000 prompts by .01, one of 256 by .02. The reward of training would not do: it also falls when prompts leave
because they are mastered."""

ADVICE: dict[AlarmKind, str] = {
    "no_reward": "look at verdicts and at some completions of the spool: set length.think_end to what the "
    "model writes, ask for the graded format in data.instruction, or train on easier problems",
    "no_answer": "set length.think_end to what the model writes (empty if it does not think apart), ask for "
    "the answer's format in data.instruction, or raise length.max_thinking_tokens and max_solution_tokens",
    "zero_variance": "choose prompts of middling difficulty: easier ones where the pass rate is near 0, "
    "harder ones where it is near 1; or raise batch.generations_per_prompt",
    "truncation": "raise length.max_solution_tokens, or let interruptions begin earlier "
    "(length.interruption_max_tokens)",
    "entropy_low": "add harder prompts or lower optimizer.learning_rate; groups_dropped shows how many "
    "prompts still teach",
    "entropy_high": "lower optimizer.learning_rate, or begin again from a checkpoint before the rise",
    "log_ratio": "use model.lm_head_precision = 'fp32', a smaller off_policy.k or a lower "
    "optimizer.learning_rate",
    "grad_norm": "lower optimizer.learning_rate or optimizer.max_grad_norm; look for truncation and a high "
    "log ratio",
    "pass_rate": "look at truncation, log ratio and some completions of the spool; begin again from best/ "
    "with a lower learning rate",
    "not_finite": "lower optimizer.learning_rate; the run fails after three such steps in a row",
}


def alarms(rows: Rows) -> list[Alarm]:
    """Return every alarm of a run so far, by its first step. A step that trained nothing is in no mean."""
    steps = rows.steps
    if not steps:
        return []
    numbers = [row.step for row in steps]
    found: list[Alarm] = []
    signs = _signs(steps) | {"pass_rate": _pass_rates(numbers, rows.evaluations)}
    for kind, (values, levels) in signs.items():
        found += _stretches(kind, numbers, values, levels)
    return sorted(found, key=lambda alarm: alarm.step)


def standing_alarms(rows: Rows) -> list[Alarm]:
    """Return the alarms that the newest step still has."""
    newest = max((row.step for row in rows.steps), default=None)
    return [alarm for alarm in alarms(rows) if alarm.last_step == newest]


def _signs(steps: Sequence[StepRow]) -> dict[AlarmKind, tuple[np.ndarray, np.ndarray]]:
    """Return (values, levels) [steps] of every sign that is read from step rows; nan where there is none."""
    entropy = _window_means(_column(steps, "entropy"))
    grad_norm = _column(steps, "grad_norm")
    first_entropy = next(iter(entropy[np.isfinite(entropy)]), np.nan)
    # a step without a micro-batch had no prompt to learn from: that is no accident
    skipped = np.array(
        [not row.step_applied and (row.num_micro_batches or 0) > 0 for row in steps], dtype=float
    )
    constant = np.ones(len(steps))
    return {
        "no_reward": (_steps_without_reward(_column(steps, "pass_rate")), NO_REWARD_STEPS * constant),
        "no_answer": (_window_means(_column(steps, "no_answer_share")), NO_ANSWER_LEVEL * constant),
        "zero_variance": (
            _window_means(_column(steps, "zero_variance_share")),
            ZERO_VARIANCE_LEVEL * constant,
        ),
        "truncation": (_window_means(_column(steps, "truncation_rate")), TRUNCATION_LEVEL * constant),
        "entropy_low": (entropy, ENTROPY_LOW_FACTOR * first_entropy * constant),
        "entropy_high": (entropy, ENTROPY_HIGH_FACTOR * first_entropy * constant),
        "log_ratio": (_window_means(_column(steps, "log_ratio_mean")), LOG_RATIO_LEVEL * constant),
        "grad_norm": (_window_means(grad_norm), GRAD_NORM_FACTOR * _baseline_medians(grad_norm)),
        "not_finite": (skipped, 0 * constant),
    }


def _steps_without_reward(pass_rates: np.ndarray) -> np.ndarray:
    """Return how many steps there were until each step, none with a correct completion [steps]; 0 from the
    first one on."""
    rewarded = np.logical_or.accumulate(pass_rates > 0)
    return np.where(rewarded, 0, np.cumsum(pass_rates == 0))


def _pass_rates(numbers: Sequence[int], evaluations: Sequence[EvalRow]) -> tuple[np.ndarray, np.ndarray]:
    """Return (the newest evaluation up to each step, the level from the best one up to there) [steps]."""
    by_step = {row.step: row.pass_rate for row in evaluations}
    evaluated = np.array(sorted(by_step))
    newest = np.searchsorted(evaluated, numbers, side="right") - 1
    rates = np.array([np.nan, *(by_step[step] for step in evaluated)])
    return rates[newest + 1], np.fmax.accumulate(rates)[newest + 1] - PASS_RATE_LEVEL


def _column(steps: Sequence[StepRow], name: str) -> np.ndarray:
    # None becomes nan
    return np.array([getattr(row, name) for row in steps], dtype=float)


def _window_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of the last WINDOW_STEPS values [steps]; nan before there are so many steps, or where
    none of them is a number."""
    is_number = np.isfinite(values)
    sums = np.convolve(np.where(is_number, values, 0.0), np.ones(WINDOW_STEPS))[: len(values)]
    counts = np.convolve(is_number, np.ones(WINDOW_STEPS))[: len(values)]
    means = np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
    means[: WINDOW_STEPS - 1] = np.nan
    return means


def _baseline_medians(values: np.ndarray) -> np.ndarray:
    """Return the median of the BASELINE_STEPS before the window [steps]; nan where there are fewer than
    WINDOW_STEPS numbers."""
    padded = np.concatenate([np.full(BASELINE_STEPS + WINDOW_STEPS - 1, np.nan), values[: 1 - WINDOW_STEPS]])
    before = np.sort(sliding_window_view(padded, BASELINE_STEPS)[: len(values)], axis=1)  # nan goes last
    counts = np.count_nonzero(np.isfinite(before), axis=1)
    middle = np.stack([np.maximum(counts - 1, 0) // 2, counts // 2], axis=1)
    medians = np.take_along_axis(before, middle, axis=1).mean(axis=1)
    return np.where(counts >= WINDOW_STEPS, medians, np.nan)


def _stretches(
    kind: AlarmKind, numbers: Sequence[int], values: np.ndarray, levels: np.ndarray
) -> list[Alarm]:
    """Return one alarm a stretch of steps beyond their levels; a nan is beyond none."""
    below = kind in ("entropy_low", "pass_rate")
    beyond = values < levels if below else values > levels
    edges = np.flatnonzero(np.diff(np.concatenate([[False], beyond, [False]]).astype(int)))
    found = []
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        distances = np.abs(values - levels)[begin:end]
        worst = begin + int(np.argmax(distances))
        found.append(
            Alarm(
                kind=kind,
                step=numbers[begin],
                last_step=numbers[end - 1],
                value=float(values[worst]),
                level=float(levels[worst]),
                advice=ADVICE[kind],
            )
        )
    return found
