"""Derive scalerl.curve.estimators.prior.PUBLISHED from the published curves; test it on figures left out.

    python tools/learn_prior.py                    # the learnt numbers
    python tools/learn_prior.py --leave-one-out    # the table of scalerl/curve/README.md

What is learnt: the spread of B and of the gain (moments of least-squares fits), the wander and scatter (best
score when curves are cut short and predicted) and the drift (90 % coverage behind the cuts). Nothing is tuned
per curve.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from scalerl.curve.estimators import ESTIMATORS
from scalerl.curve.estimators.draws import INTERVAL
from scalerl.curve.estimators.least_squares import fit_least_squares
from scalerl.curve.estimators.posterior import fit_posterior
from scalerl.curve.estimators.prior import PUBLISHED, Prior
from scalerl.curve.fit import fit_curve
from scalerl.curve.sigmoid import FloatArray, Sigmoid
from scalerl.curve.window import Window, cut

POINTS = Path(__file__).parent / "data" / "published_points.csv"
COLUMNS = ("paper", "least_squares", "default")
"""Estimators of the table, the one whose intervals are counted last."""
WANDER_SDS = (0.0035, 0.0045, 0.0055, 0.0065, 0.008)
WANDER_LENGTHS = (0.2, 0.3, 0.5)
SCATTERS = (0.6, 0.8)
"""The score is flat below and learns whatever is the least; the published extrapolations are predicted no
better."""
NOISES = tuple(product(WANDER_SDS, WANDER_LENGTHS, SCATTERS))
DRIFTS = tuple(np.arange(0.004, 0.0201, 0.001).round(3))
"""Never none: the cuts reach only three times beyond their windows, and the tool will be asked for more."""
CUTS = (0.35, 0.5, 0.65)
"""Fractions of a run's compute at which it is cut short."""
SAME_RUN = {("fig1", "8B 100k"): "ScaleRL 100k", ("100k", "ScaleRL"): "ScaleRL 100k"}
"""One run drawn in two figures; elsewhere the run's name and published parameters tell."""


@dataclass(frozen=True)
class PublishedRun:
    """One curve of one figure; arrays [points]."""

    figure: str
    run: str
    identity: str
    compute: FloatArray
    pass_rate: FloatArray
    fitted: FloatArray
    """True for points inside the published fit window."""
    r0: float

    def window(self, mask: FloatArray) -> Window:
        return Window(compute=self.compute[mask], pass_rate=self.pass_rate[mask], r0=self.r0)


def read_published(path: Path = POINTS) -> list[PublishedRun]:
    """Read all published curves; the baseline, drawn in six figures, has one identity."""
    runs = []
    for (figure, run), rows in pd.read_csv(path).groupby(["figure", "run"], sort=False):
        identity = SAME_RUN.get((figure, run))
        if identity is None:
            baseline = rows.published_A.iloc[0] == 0.52 and rows.published_B.iloc[0] == 4.55
            identity = "baseline" if baseline else run
        columns = (rows.gpu_hours.to_numpy(), rows.pass_rate.to_numpy(), (rows.split == "fit").to_numpy())
        runs.append(PublishedRun(figure, run, identity, *columns, float(rows.r0.iloc[0])))
    return runs


def others(runs: list[PublishedRun], figure: str | None) -> list[PublishedRun]:
    """Return the distinct runs that no panel of `figure` shows, in the drawing with most points."""
    hidden = {run.identity for run in runs if run.figure == figure}
    best: dict[str, PublishedRun] = {}
    for run in runs:
        if run.identity not in hidden and len(run.compute) > len(best.get(run.identity, run).compute) - 1:
            best[run.identity] = run
    return list(best.values())


def learn(runs: list[PublishedRun], noises: Sequence[tuple[float, float, float]] = NOISES) -> Prior:
    """Return the prior that these runs teach, its noise one of `noises`."""
    fits = [fit_least_squares(run.compute, run.pass_rate, run.r0) for run in runs]
    log_b = np.log([fit.b for fit in fits])
    gain = np.array([(fit.a - fit.r0) / (1 - fit.r0) for fit in fits])
    scatters = [_white_scatter(run, fit) for run, fit in zip(runs, fits, strict=True)]
    prior = replace(
        PUBLISHED,
        log_b_mean=log_b.mean(),
        # A Student-t of 4 degrees of freedom has sd sqrt(2) * scale.
        log_b_scale=log_b.std(ddof=1) / np.sqrt(2),
        gain_mean=gain.mean(),
        gain_sd=gain.std(ddof=1),
        white_scatter=float(np.median(scatters)),
    )
    priors = [
        replace(prior, wander_sd=sd, wander_length=length, scatter=scatter) for sd, length, scatter in noises
    ]
    prior = min(priors, key=lambda prior: _cut_score(runs, prior))
    return replace(prior, drift=_learn_drift(runs, prior))


def _cut_score(runs: list[PublishedRun], prior: Prior) -> float:
    """Return the mean ranked probability score of what lies behind a cut, predicted from before it."""
    scores = []
    for run, mask in cuts(runs):
        shown = fit_posterior(run.window(mask), prior).predictive.evaluations(run.compute[~mask])
        scores.append(crps(shown[::4], run.pass_rate[~mask]).mean())
    return float(np.mean(scores))


def crps(draws: FloatArray, observed: FloatArray) -> FloatArray:
    """Return E|X - observed| - E|X - X'| / 2 of each column of `draws` [draws, points].

    It is the continuous ranked probability score (Gneiting and Raftery 2007, section 4.2).
    """
    ordered = np.sort(draws, axis=0)
    n = len(ordered)
    spread = (2 * np.arange(1, n + 1) - n - 1) @ ordered / n**2
    return np.asarray(np.abs(draws - observed).mean(axis=0) - spread)


def _white_scatter(run: PublishedRun, fit: Sigmoid) -> float:
    """Return the sd of the points about a fit of three parameters, in binomial sd."""
    window = run.window(np.ones(len(run.compute), dtype=bool))
    scaled = (run.pass_rate - fit(run.compute)) / window.binomial_sd
    return float(np.sqrt((scaled**2).sum() / (len(scaled) - 3)))


def _learn_drift(runs: list[PublishedRun], prior: Prior) -> float:
    """Return the least drift with which 90 % of the points behind a cut are covered."""
    fits = []
    for run, mask in cuts(runs):
        draws = fit_posterior(run.window(mask), prior).predictive
        fits.append((draws, run.compute[~mask], run.pass_rate[~mask]))
    for drift in DRIFTS:
        hits = []
        for draws, compute, observed in fits:
            low, high = np.quantile(replace(draws, drift=drift).evaluations(compute), INTERVAL, axis=0)
            hits.extend((observed >= low) & (observed <= high))
        if np.mean(hits) >= 0.9:
            return float(drift)
    return float(DRIFTS[-1])


def cuts(runs: list[PublishedRun]) -> list[tuple[PublishedRun, FloatArray]]:
    """Return runs with the mask of the points before a cut; at least 8 lie before and 3 behind it."""
    pairs = [(run, run.compute <= cut * run.compute[-1]) for run in runs for cut in CUTS]
    return [(run, mask) for run, mask in pairs if mask.sum() >= 8 and (~mask).sum() >= 3]


@dataclass(frozen=True)
class Score:
    """Extrapolation of one published curve: RMSE by estimator, points, those inside the intervals."""

    figure: str
    run: str
    rmse: dict[str, float]
    num_points: int
    num_inside: int


def leave_one_figure_out(
    runs: list[PublishedRun], noises: Sequence[tuple[float, float, float]] = NOISES
) -> list[Score]:
    """Predict every curve of three or more extrapolation points by a prior learnt from other figures."""
    long = [run for run in runs if (~run.fitted).sum() >= 3]
    priors = {figure: learn(others(runs, figure), noises) for figure in {run.figure for run in long}}
    return [_score(run, priors[run.figure]) for run in long]


def _score(run: PublishedRun, prior: Prior) -> Score:
    later, observed = run.compute[~run.fitted], run.pass_rate[~run.fitted]
    rmse = {}
    for estimator in COLUMNS:
        window = cut(run.window(run.fitted), ESTIMATORS[estimator].min_compute)
        prediction = fit_curve(window, estimator, prior).predict(later)
        rmse[estimator] = float(np.sqrt(np.mean((prediction.predicted - observed) ** 2)))
    inside = (observed >= prediction.lo90) & (observed <= prediction.hi90)
    return Score(run.figure, run.run, rmse, len(later), int(inside.sum()))


def print_table(scores: list[Score]) -> None:
    """Print the scores as Markdown."""
    print("| figure | run | paper | least squares | default | inside 90 % |\n|---|---|---|---|---|---|")
    for s in scores:
        columns = " | ".join(f"{s.rmse[name]:.4f}" for name in COLUMNS)
        print(f"| {s.figure} | {s.run} | {columns} | {s.num_inside} of {s.num_points} |")
    table = {name: np.array([s.rmse[name] for s in scores]) for name in COLUMNS}
    for label, reduce in (("mean", np.mean), ("median", np.median)):
        values = {name: reduce(column) for name, column in table.items()}
        print(f"| | **{label}** | " + " | ".join(f"{value:.4f}" for value in values.values()), end=" | ")
        print(f"default / paper = {values['default'] / values['paper']:.2f} |")
    inside, points = sum(s.num_inside for s in scores), sum(s.num_points for s in scores)
    print(f"\ncoverage of the 90 % prediction intervals: {inside} of {points} = {inside / points:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=Path, default=POINTS, help="published points (CSV)")
    parser.add_argument("--leave-one-out", action="store_true", help="predict every figure from the others")
    arguments = parser.parse_args()
    runs = read_published(arguments.points)
    if arguments.leave_one_out:
        print_table(leave_one_figure_out(runs))
        return
    prior = learn(others(runs, None))
    for field in fields(prior):
        print(f"{field.name} = {getattr(prior, field.name):.4g}")


if __name__ == "__main__":
    main()
