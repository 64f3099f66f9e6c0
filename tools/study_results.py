#!/usr/bin/env python3
"""Copy what of a study is small enough to commit: tables and one picture, no weights, no rollouts.

    python tools/study_results.py runs/study sweeps/study

It needs fits/ and fits-steps/ in the study, as tools/study.sh makes them, and prints the table of recipes in
Markdown.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scalerl.fits.drawing import COLOURS, save
from scalerl.fits.inputs import split_name
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths
from scalerl.sweep.states import sweep_states

BASELINE = "ScaleRL"
PANELS = {
    "loss type": ("DAPO", "GRPO", "GSPO"),
    "loss aggregation": ("sample_average", "token_average"),
    "advantage norm": ("prompt_norm", "no_norm"),
    "zero variance": ("keep_zero_variance",),
    "off-policy": ("ppo_off_policy-1", "ppo_off_policy-8"),
    "the others left out": ("length_penalty", "no_fp32", "uniform_sampling"),
}
"""Panel of the picture -> recipes drawn in it beside the baseline."""
LAST_EVALUATIONS = 3
"""The final pass rate is the mean of this many evaluations: one alone is uncertain by about .015."""
EVALUATION_COLUMNS = [
    "step",
    "gpu_hours",
    "generated_tokens",
    "trained_tokens",
    "pass_rate",
    "num_prompts",
    "samples_per_prompt",
    "truncation_rate",
]
STEP_MEANS = ["log_ratio_mean", "clip_fraction", "entropy", "off_policyness_mean", "grad_norm"]
TABLES = ("fits.csv", "ranking.csv", "pairs.csv")


def read_study(study: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return one row a run (how it ended, what its steps were like) and one row an evaluation."""
    runs: list[dict[str, Any]] = []
    curves = []
    for state in sweep_states(study):
        _, recipe, seed = split_name(state.name)
        name = {"recipe": recipe, "seed": seed}
        rows = read_rows(RunPaths(study / state.name).metrics)
        steps = pd.DataFrame([row.to_json() for row in rows.steps])
        evaluations = pd.DataFrame([row.to_json() for row in rows.evaluations])
        run: dict[str, Any] = name | {"state": state.state, "reason": state.reason, "steps": len(steps)}
        if len(steps):
            run |= {column: steps[column].mean() for column in STEP_MEANS} | {
                "log_ratio_max": steps.log_ratio_max.max()
            }
        if len(evaluations) > LAST_EVALUATIONS:
            evaluations = evaluations.sort_values("step")
            curves.append(evaluations[EVALUATION_COLUMNS].assign(**name))
            run |= {"gpu_hours": evaluations.gpu_hours.iloc[-1], "r0": evaluations.pass_rate.iloc[0]}
            run |= {
                "final": evaluations.pass_rate.iloc[-LAST_EVALUATIONS:].mean(),
                "mean": evaluations.pass_rate.iloc[1:].mean(),
            }
        runs.append(run)
    if not curves:
        found = f"{study} holds no run with more than {LAST_EVALUATIONS} evaluations"
        raise ValueError(f"{found}; `make study` starts or continues it")
    table = pd.concat(curves)
    return pd.DataFrame(runs), table[["recipe", "seed", *EVALUATION_COLUMNS]]


def compare(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a recipe.

    Column final is the pass rate of the last evaluations; mean is over the whole curve, which tells the
    faster from the slower. Differences are to the baseline, their standard errors from the sd between seeds,
    pooled over all recipes. Only finished runs of full length count: the last pass rates of one that ended
    early are not its final ones.
    """
    measured = runs[runs.final.notna() & (runs.state == "finished") & (runs.steps == runs.steps.max())]
    table = measured.groupby("recipe").agg(
        runs=("final", "size"),
        final=("final", "mean"),
        mean=("mean", "mean"),
        gpu_hours=("gpu_hours", "mean"),
    )
    for column in ("final", "mean"):
        groups = measured.groupby("recipe")[column]
        freedom = (groups.size() - 1).sum()
        sd = np.sqrt(((groups.size() - 1) * groups.var().fillna(0)).sum() / freedom) if freedom else np.nan
        if BASELINE in table.index:
            table[f"{column}_difference"] = table[column] - table[column][BASELINE]
            table[f"{column}_standard_error"] = sd * np.sqrt(1 / table.runs + 1 / table.runs[BASELINE])
            table.loc[BASELINE, [f"{column}_difference", f"{column}_standard_error"]] = np.nan
    return table.sort_values("final", ascending=False)


def markdown(table: pd.DataFrame) -> str:
    header = ["recipe", *table.columns]
    lines = [header, ["---"] * len(header)]
    lines += [
        [str(name), *(_cell(value) for value in row)]
        for name, row in zip(table.index, table.to_numpy(), strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: float) -> str:
    if np.isnan(value):
        return ""
    return f"{value:.0f}" if value == int(value) else f"{value:.3f}"


def draw(curves: pd.DataFrame) -> Figure:
    """Draw the mean over the seeds of each recipe against optimizer steps, and the range of the seeds."""
    picture = Figure(figsize=(10, 5.6), layout="constrained")
    panels = picture.subplots(2, 3, sharex=True, sharey=True)
    for panel, (title, recipes) in zip(panels.flat, PANELS.items(), strict=True):
        for recipe, colour in zip((BASELINE, *recipes), ("0.35", *COLOURS), strict=False):
            by_step = curves[curves.recipe == recipe].groupby("step").pass_rate
            low, middle, high = by_step.min(), by_step.mean(), by_step.max()
            panel.fill_between(low.index, low, high, color=colour, alpha=0.15, linewidth=0)
            panel.plot(middle.index, middle, "o-", color=colour, markersize=3, linewidth=1.4, label=recipe)
        panel.set_title(title, fontsize=10, loc="left")
        panel.legend(fontsize=7, frameon=False, loc="lower right")
        panel.grid(alpha=0.2, linewidth=0.5)
        panel.spines[["top", "right"]].set_visible(False)
    picture.supxlabel("optimizer steps", fontsize=9)
    picture.supylabel("held-out pass rate", fontsize=9)
    return picture


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args(argv)
    runs, curves = read_study(arguments.study)
    table = compare(runs)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, content in {"runs": runs, "curves": curves, "recipes": table.reset_index()}.items():
        content.to_csv(arguments.output / f"{name}.csv", index=False, float_format="%.5g")
    for axis, folder in {"gpu_hours": "fits", "steps": "fits-steps"}.items():
        for name in TABLES:
            source = arguments.study / folder / name
            shutil.copyfile(source, arguments.output / f"{source.stem}-{axis}.csv")
    save(arguments.output / "curves.png", draw(curves))
    print(markdown(table))


if __name__ == "__main__":
    main()
