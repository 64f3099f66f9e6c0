"""Check that 90 % intervals of A hold A in 90 % of simulated runs, where the ceiling is identified.

    python tools/check_intervals.py [--runs 500] [--points 75] [--window 1000 16000] [--wander .0055]

Runs follow the sigmoid exactly, with the published parameters (recipes, ablations and scale axes in turn) and
white scatter .0035; R0 is measured with the same scatter. With --wander they also leave it by a process of
that sd and correlation length .2 in log compute, as the published runs do: parameters are then less well
known than the intervals say.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from scalerl.curve.estimators.prior import PUBLISHED
from scalerl.curve.fit import CurveFit, fit_curve
from scalerl.curve.sigmoid import FloatArray, Sigmoid
from scalerl.curve.window import Window

SCATTER = 0.0035
# (A, B, C_mid) as published or drawn; R0 is .4.
PUBLISHED_CURVES = (
    (0.610, 1.97, 2556),
    (0.610, 1.77, 4134),
    (0.535, 1.44, 2136),
    (0.515, 1.85, 2861),
    (0.490, 1.17, 1728),
    (0.645, 1.68, 10920),
    (0.590, 2.09, 2468),
    (0.610, 1.68, 2663),
    (0.590, 2.35, 1781),
    (0.590, 1.81, 1472),
    (0.520, 4.55, 1370),
    (0.610, 1.79, 2349),
    (0.535, 2.98, 1449),
    (0.550, 1.62, 1519),
    (0.525, 3.65, 1449),
    (0.530, 3.15, 1372),
    (0.540, 2.68, 1298),
    (0.535, 3.84, 1550),
)


@dataclass(frozen=True)
class Coverage:
    """What came of the simulated runs."""

    num_runs: int
    num_identified: int
    num_inside: int
    """Identified runs whose interval holds the true A."""
    spread: float
    """Root mean square of the true A's normal scores within its draws: above 1, the intervals are too narrow
    by that factor. It tells a wrong width from a right one with half the runs that counting hits takes."""

    @property
    def share(self) -> float:
        """Return the share of the identified runs whose interval holds the true A."""
        return self.num_inside / max(self.num_identified, 1)


def simulate(curve: Sigmoid, compute: FloatArray, rng: np.random.Generator, wander_sd: float = 0.0) -> Window:
    """Simulate a run on the curve with white scatter and perhaps a wander, R0 measured with the scatter."""
    pass_rate = curve(compute) + SCATTER * rng.standard_normal(len(compute))
    if wander_sd:
        distance = np.abs(np.subtract.outer(np.log(compute), np.log(compute)))
        correlation = np.exp(-distance / PUBLISHED.wander_length) + 1e-9 * np.eye(len(compute))
        pass_rate += wander_sd * np.linalg.cholesky(correlation) @ rng.standard_normal(len(compute))
    return Window(compute=compute, pass_rate=pass_rate, r0=curve.r0 + SCATTER * rng.standard_normal())


def coverage(num_runs: int, compute: FloatArray, seed: int = 0, wander_sd: float = 0.0) -> Coverage:
    """Simulate and fit `num_runs` runs evaluated at `compute` [points], the published curves in turn."""
    rng = np.random.default_rng(seed)
    inside, scores = [], []
    for i in range(num_runs):
        a, b, c_mid = PUBLISHED_CURVES[i % len(PUBLISHED_CURVES)]
        fit: CurveFit = fit_curve(simulate(Sigmoid(r0=0.4, a=a, b=b, c_mid=c_mid), compute, rng, wander_sd))
        if fit.identification.identified:
            low, high = fit.parameters.interval("a")
            inside.append(low <= a <= high)
            scores.append(normal_score(fit.parameters.a, a))
    spread = float(np.sqrt(np.mean(np.square(scores)))) if scores else float("nan")
    return Coverage(num_runs, len(inside), sum(inside), spread)


def normal_score(draws: FloatArray, truth: float) -> float:
    """Return the standard normal quantile of the truth's place among the draws."""
    place = np.mean(draws < truth)
    return float(ndtri(np.clip(place, 0.5 / len(draws), 1 - 0.5 / len(draws))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--points", type=int, default=75)
    parser.add_argument("--window", type=float, nargs=2, default=(1000.0, 16_000.0), help="GPU-hours")
    parser.add_argument(
        "--wander", type=float, default=0.0, help="sd of a wander about the sigmoid, in pass rate"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    compute = np.linspace(*arguments.window, arguments.points)
    result = coverage(arguments.runs, compute, arguments.seed, arguments.wander)
    start, end = arguments.window
    print(f"{result.num_runs} runs, {arguments.points} points in {start:.0f}-{end:.0f}: ", end="")
    print(f"{result.num_identified} identified")
    if result.num_identified:
        print(f"A inside its 90 % interval in {result.share:.3f} of them; ", end="")
        print(f"its normal scores have a spread of {result.spread:.2f}")


if __name__ == "__main__":
    main()
