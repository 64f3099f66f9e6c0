"""Is the ceiling identified by the window, and if not, why and how much more compute would be needed?"""

from dataclasses import dataclass

import numpy as np

from scalerl.curve.alternatives import BENDLESS, Alternative
from scalerl.curve.draws import Draws
from scalerl.curve.prior import PUBLISHED
from scalerl.curve.window import Window

MAX_RISK = 0.05
MIN_BEND_BIC = 2.0
"""BIC by which the sigmoid must beat the best curve without a ceiling: positive evidence."""
MARGIN = 0.02
"""Half-width of A's interval that always will do: the paper's margin between runs."""
MAX_HALF_WIDTH_SHARE = 0.15
"""... or this share of the gain A - R0, where that is more."""
MIN_POINTS = 6
"""Fewer points than this always lie on some curve: the sigmoid and its scatter have four free numbers."""
SEEN_GAIN = 0.8
"""A ceiling counts as approached once this part of the gain has been reached."""

OTHER_FAMILY_BIC = 15.0
"""BIC by which another saturating family must beat the sigmoid before its ceiling speaks against the
sigmoid's."""
MAX_MISFIT = 3.0
"""Residuals about the sigmoid may be this many times what a run on its sigmoid shows."""

MAX_FACTOR = 1000.0
"""More than this many times the window's compute is no answer."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether to believe the ceiling."""

    identified: bool
    reason: str
    """Why not, in words; empty when identified."""
    needed_compute: float | None
    """Where the run would have to end to see its ceiling; None when it is identified, or the window cannot
    tell."""


def judge(parameters: Draws, alternatives: list[Alternative], window: Window) -> Verdict:
    """The verdict on a fit, from its draws and the families it was compared with."""
    misfits = _misfits(parameters, alternatives, window)
    reasons = [
        *_bounds(parameters, window),
        *_bend(parameters, alternatives, window),
        *_width(parameters),
        *misfits,
    ]
    if not reasons:
        return Verdict(identified=True, reason="", needed_compute=None)
    needed_compute = (
        None if misfits else _needed_compute(parameters, window)
    )  # more compute does not mend a wrong family
    return Verdict(identified=False, reason="; ".join(reasons), needed_compute=needed_compute)


def _bounds(parameters: Draws, window: Window) -> list[str]:
    reasons = []
    if len(window.compute) < MIN_POINTS:
        reasons.append(f"{len(window.compute)} points are too few to show a bend: it takes {MIN_POINTS}")
    if np.mean(parameters.a > 0.995) > MAX_RISK:
        reasons.append("A may lie on its bound 1")
    reached = parameters.curves(window.compute[-1:])[:, 0]
    if np.mean(reached < window.r0 + 2 * window.r0_sd) > MAX_RISK:
        reasons.append("no gain over R0 is visible")
    return reasons


def _bend(parameters: Draws, alternatives: list[Alternative], window: Window) -> list[str]:
    reasons = []
    last = window.compute[-1]
    if np.mean(parameters.c_mid > last) > MAX_RISK:
        reasons.append(
            f"the window may end before C_mid ({last:.3g} against up to {parameters.interval('c_mid')[1]:.3g})"
        )
    bic = {fit.family: fit.bic for fit in alternatives}
    bendless = min(BENDLESS, key=lambda family: bic[family])
    if bic[bendless] - bic["sigmoid"] < MIN_BEND_BIC:
        reasons.append(
            f"no bend in the window: {bendless} fits as well (BIC {bic[bendless] - bic['sigmoid']:+.1f})"
        )
    return reasons


def _width(parameters: Draws) -> list[str]:
    low, high = parameters.interval("a")
    allowed = max(MARGIN, MAX_HALF_WIDTH_SHARE * float(np.median(parameters.a - parameters.r0)))
    if (high - low) / 2 <= allowed:
        return []
    return [f"the 90 % interval of A, {low:.3f} to {high:.3f}, is wider than +-{allowed:.3f}"]


def _misfits(parameters: Draws, alternatives: list[Alternative], window: Window) -> list[str]:
    """Signs that the run does not follow a sigmoid at all: its ceiling means nothing then."""
    reasons = []
    sigmoid = next(fit for fit in alternatives if fit.family == "sigmoid")
    low, high = parameters.interval("a")
    for fit in alternatives:
        if (
            fit.ceiling is not None
            and sigmoid.bic - fit.bic >= OTHER_FAMILY_BIC
            and not low <= fit.ceiling <= high
        ):
            better = f"{fit.family} fits better (BIC {sigmoid.bic - fit.bic:+.1f})"
            reasons.append(
                f"{better} and puts the ceiling at {fit.ceiling:.3f}, outside {low:.3f} to {high:.3f}"
            )
    allowed = MAX_MISFIT * PUBLISHED.white_scatter * float(window.binomial_sd.mean())
    if sigmoid.rmse > allowed:
        reasons.append(f"the points do not follow a sigmoid: rmse {sigmoid.rmse:.4f}, above {allowed:.4f}")
    return reasons


def _needed_compute(parameters: Draws, window: Window) -> float | None:
    """Where nearly every draw has made 80 % of its gain; at least a quarter more than the window has."""
    log_reached = np.log(parameters.c_mid) + np.log(SEEN_GAIN / (1 - SEEN_GAIN)) / parameters.b
    factor = np.exp(min(np.quantile(log_reached, 0.9) - np.log(window.compute[-1]), np.log(2 * MAX_FACTOR)))
    return float(max(factor, 1.25) * window.compute[-1]) if factor <= MAX_FACTOR else None
