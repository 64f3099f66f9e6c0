"""Which recipe is better? The paper's rules, with probabilities.

Ceilings are compared first. Recipes whose A lie within the margin of one another are refitted with a common A
and compared by B (arXiv 2510.13786, section 3 and figure 8). Seeds of a recipe are pooled, and their spread
gives the margin.
"""

from dataclasses import dataclass, replace

import numpy as np

from scalerl.curve.estimators.posterior import fit_posterior
from scalerl.curve.estimators.prior import PUBLISHED
from scalerl.curve.sigmoid import FloatArray
from scalerl.curve.window import Window

PAPER_MARGIN = 0.02
SEED_SD = 0.0075
"""Between-seed sd of A while no recipe has two seeds: the paper's three runs lay within +-.015, two sd."""
SEED_SD_FREEDOM = 4
"""Degrees of freedom that the paper's sd counts for beside those of the seeds at hand."""
SMALLEST_A_SD = 1e-4
"""Where A is known better than this, the draws do not tell how B depends on it."""
NUM_QUANTILES = 199


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe: the windows of its seeds, and what each says of A."""

    name: str
    windows: list[Window]
    a_quantiles: list[FloatArray]
    """Evenly spaced quantiles [NUM_QUANTILES] of A, one array a seed."""
    identified: bool
    """True where the ceilings of all seeds are identified."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One row of the ranking."""

    rank: int
    recipe: str
    num_seeds: int
    identified: bool
    a: float
    a_lo90: float
    a_hi90: float
    tier: int
    """Recipes whose ceilings lie within the margin share a tier; inside it B decides."""
    common_a: float
    b: float
    """B at the tier's common A."""
    b_lo90: float
    b_hi90: float
    slope: float | None
    """B by the linearised form at the common A, mean over seeds; None where too few points allow it."""
    above_next: float | None
    """Probability that this recipe is better than the next: by A between tiers, by B inside one."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """P(the ceiling of `recipe` is above `other`'s)."""

    recipe: str
    other: str
    ceiling_above: float


def quantiles(draws: FloatArray) -> FloatArray:
    """Return evenly spaced quantiles [NUM_QUANTILES] that stand for the draws."""
    return np.asarray(np.quantile(draws, (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES))


def probability_above(one: FloatArray, other: FloatArray) -> float:
    """Return P(x > y) for independent x, y given by equally likely values; ties count half."""
    ordered = np.sort(other)
    below = np.searchsorted(ordered, one, side="left") + np.searchsorted(ordered, one, side="right")
    return float(below.mean() / (2 * len(ordered)))


def seed_sd(recipes: list[Recipe]) -> float:
    """Return the pooled between-seed sd of A.

    The paper's counts as SEED_SD_FREEDOM degrees of freedom more, so that two lucky seeds do not make it 0.
    """
    medians = [np.array([np.median(q) for q in recipe.a_quantiles]) for recipe in recipes]
    freedom = sum(len(seeds) - 1 for seeds in medians)
    squares = sum(((seeds - seeds.mean()) ** 2).sum() for seeds in medians)
    return float(np.sqrt((SEED_SD_FREEDOM * SEED_SD**2 + squares) / (SEED_SD_FREEDOM + freedom)))


def margin(recipes: list[Recipe]) -> float:
    """Return the difference in A up to which recipes are not told apart.

    It is two between-seed sd, or the paper's .02 where no recipe has two seeds.
    """
    return 2 * seed_sd(recipes) if any(len(recipe.windows) > 1 for recipe in recipes) else PAPER_MARGIN


def ceiling_values(recipe: Recipe, between_seeds_sd: float) -> FloatArray:
    """Return equally likely values of a ceiling: the mean of its seeds, each off by the between-seed sd."""
    # Seeds are independent, so each one's quantiles are shuffled before they are averaged.
    rng = np.random.default_rng(0)
    seeds = np.stack([rng.permutation(np.repeat(q, 20)) for q in recipe.a_quantiles])
    noise = between_seeds_sd / np.sqrt(len(seeds)) * rng.standard_normal(seeds.shape[1])
    return np.asarray(seeds.mean(axis=0) + noise)


def log_b_values(recipe: Recipe, common_a: float) -> FloatArray:
    """Return equally likely values of log B with A fixed: the mean over the recipe's seeds.

    They come from each seed's posterior, which allows for a wander about the sigmoid and for the error of R0:
    along the line by which log B depends on A there, every draw is moved to the common A.
    """
    log_b = []
    for number, window in enumerate(recipe.windows):
        # The predictive draws, because they always allow for the wander.
        draws = fit_posterior(window, PUBLISHED).predictive
        covariance = np.cov(draws.a, np.log(draws.b))
        slope = covariance[0, 1] / (covariance[0, 0] + SMALLEST_A_SD**2)
        moved = np.log(draws.b) - slope * (draws.a - common_a)
        # Seeds are independent, but their draws come in one order.
        log_b.append(np.random.default_rng(number).permutation(moved))
    return np.asarray(np.mean(log_b, axis=0))


def rank(recipes: list[Recipe]) -> list[Ranked]:
    """Rank the recipes, best first: by tier of A, then by B at the tier's common A."""
    between = seed_sd(recipes)
    ceilings = {recipe.name: ceiling_values(recipe, between) for recipe in recipes}
    rows: list[Ranked] = []
    for number, tier in enumerate(_tiers(recipes, ceilings, margin(recipes)), 1):
        # As in the paper, B is compared at the mean A of the tier.
        common_a = float(np.mean([np.median(ceilings[recipe.name]) for recipe in tier]))
        log_b = {recipe.name: log_b_values(recipe, common_a) for recipe in tier}
        for recipe in sorted(tier, key=lambda r: -np.median(log_b[r.name])):
            rows.append(
                _row(len(rows) + 1, recipe, ceilings[recipe.name], number, common_a, log_b[recipe.name])
            )
            if len(rows) > 1:
                rows[-2] = _with_next(rows[-2], rows[-1], ceilings, log_b)
    return rows


def _tiers(recipes: list[Recipe], ceilings: dict[str, FloatArray], allowed: float) -> list[list[Recipe]]:
    """Group recipes from the highest ceiling down: those within the margin of a tier's first join it."""
    tiers: list[list[Recipe]] = []
    for recipe in sorted(recipes, key=lambda r: -np.median(ceilings[r.name])):
        if tiers and np.median(ceilings[tiers[-1][0].name]) - np.median(ceilings[recipe.name]) <= allowed:
            tiers[-1].append(recipe)
        else:
            tiers.append([recipe])
    return tiers


def _row(number: int, recipe: Recipe, a: FloatArray, tier: int, common_a: float, log_b: FloatArray) -> Ranked:
    a_lo90, a_middle, a_hi90 = (float(q) for q in np.quantile(a, (0.05, 0.5, 0.95)))
    slopes = [slope for window in recipe.windows if (slope := linearised_slope(window, common_a)) is not None]
    b_lo90, b_middle, b_hi90 = (float(q) for q in np.exp(np.quantile(log_b, (0.05, 0.5, 0.95))))
    return Ranked(
        rank=number,
        recipe=recipe.name,
        num_seeds=len(recipe.windows),
        identified=recipe.identified,
        a=a_middle,
        a_lo90=a_lo90,
        a_hi90=a_hi90,
        tier=tier,
        common_a=common_a,
        b=b_middle,
        b_lo90=b_lo90,
        b_hi90=b_hi90,
        slope=float(np.mean(slopes)) if slopes else None,
        above_next=None,
    )


def _with_next(
    row: Ranked, after: Ranked, ceilings: dict[str, FloatArray], log_b: dict[str, FloatArray]
) -> Ranked:
    if row.tier != after.tier:
        return replace(row, above_next=probability_above(ceilings[row.recipe], ceilings[after.recipe]))
    # The draws of two fits share their random numbers: pair them up independently.
    return replace(row, above_next=probability_above(log_b[row.recipe], log_b[after.recipe]))


def pairs(recipes: list[Recipe]) -> list[Pair]:
    """Return the probability for every ordered pair of recipes."""
    between = seed_sd(recipes)
    ceilings = {recipe.name: ceiling_values(recipe, between) for recipe in recipes}
    return [
        Pair(recipe=one, other=other, ceiling_above=probability_above(ceilings[one], ceilings[other]))
        for one in ceilings
        for other in ceilings
        if one != other
    ]


def linearised_slope(window: Window, a: float) -> float | None:
    """Return B by least squares from the leave-one-out form, or None where fewer than two points allow it.

    The form is log(C_mid^B / F) = B log C with F(R) = (A - R0) / (R - R0) - 1. Points at or above the ceiling
    `a`, or at or below R0, have no F and are left out.
    """
    inside = (window.pass_rate < a) & (window.pass_rate > window.r0)
    if inside.sum() < 2:
        return None
    f = (a - window.r0) / (window.pass_rate[inside] - window.r0) - 1
    x = window.log_compute[inside] - window.log_compute[inside].mean()
    return float(-(x @ np.log(f)) / max(x @ x, 1e-300))
