"""Is the ceiling identified by the window, and if not, why and how much more compute would be needed?"""

from dataclasses import dataclass

import numpy as np

from scalerl.curve.alternatives import BENDLESS, Alternative
from scalerl.curve.estimators.draws import Draws
from scalerl.curve.estimators.prior import PUBLISHED
from scalerl.curve.window import Window

MAX_RISK = 0.05
"""A sign against the ceiling counts once this share of the draws shows it."""
MIN_BEND_BIC = 2.0
"""The sigmoid must beat the best curve without a ceiling by this much BIC: positive evidence."""
MARGIN = 0.02
"""A half-width of A's interval that always will do: the paper's margin between runs."""
MAX_HALF_WIDTH_SHARE = 0.15
"""... or this share of the gain A - R0, where that is more."""
MIN_BEND_POINTS = 6
"""Fewer points than this always lie on some curve: the sigmoid and its scatter have four free numbers."""
SEEN_GAIN = 0.8
"""A ceiling counts as approached once this part of the gain has been reached."""

OTHER_FAMILY_BIC = 15.0
"""Another saturating family must beat the sigmoid by this much BIC before its ceiling speaks against the
sigmoid's."""
MAX_MISFIT = 3.0
"""Residuals about the sigmoid may be this many times what a run on its sigmoid shows."""

MAX_FACTOR = 1000.0
"""An answer beyond this many times the window's compute is none."""


@dataclass(frozen=True, kw_only=True)
class Identification:
    """Whether a fit's ceiling is to be believed."""

    identified: bool
    reason: str
    """Why the ceiling is not identified, in words; empty when it is."""
    needed_compute: float | None
    """Compute at which the run would have to end to show its ceiling; None when it is identified already, or
    when the window cannot tell."""


def identify(parameters: Draws, alternatives: list[Alternative], window: Window) -> Identification:
    """Say whether the ceiling is identified, from a fit's draws and the families it was compared with."""
    misfits = _misfits(parameters, alternatives, window)
    reasons = [
        *_bounds(parameters, window),
        *_bend(parameters, alternatives, window),
        *_width(parameters),
        *misfits,
    ]
    if not reasons:
        return Identification(identified=True, reason="", needed_compute=None)
    # More compute does not mend a wrong family.
    needed_compute = None if misfits else _needed_compute(parameters, window)
    return Identification(identified=False, reason="; ".join(reasons), needed_compute=needed_compute)


def _bounds(parameters: Draws, window: Window) -> list[str]:
    reasons = []
    if len(window.compute) < MIN_BEND_POINTS:
        reasons.append(f"{len(window.compute)} points are too few to show a bend: it takes {MIN_BEND_POINTS}")
    if np.mean(parameters.a > 0.995) > MAX_RISK:
        reasons.append("A may lie on its bound 1")
    # Against the measured R0: a posterior that puts R0 lower must not make a gain of a fall.
    reached = parameters.curves(window.compute[-1:])[:, 0]
    if np.mean(reached < window.r0 + 2 * window.r0_sd) > MAX_RISK:
        reasons.append("no gain over R0 is visible")
    return reasons


def _bend(parameters: Draws, alternatives: list[Alternative], window: Window) -> list[str]:
    reasons = []
    last = window.compute[-1]
    if np.mean(parameters.c_mid > last) > MAX_RISK:
        highest = parameters.interval("c_mid")[1]
        reasons.append(f"the window may end before C_mid ({last:.3g} against up to {highest:.3g})")
    bic = {fit.family: fit.bic for fit in alternatives}
    bendless = min(BENDLESS, key=lambda family: bic[family])
    lead = bic[bendless] - bic["sigmoid"]
    if lead < MIN_BEND_BIC:
        reasons.append(f"no bend in the window: {bendless} fits as well (BIC {lead:+.1f})")
    return reasons


def _width(parameters: Draws) -> list[str]:
    low, high = parameters.interval("a")
    allowed = max(MARGIN, MAX_HALF_WIDTH_SHARE * float(np.median(parameters.a - parameters.r0)))
    if (high - low) / 2 <= allowed:
        return []
    return [f"the 90 % interval of A, {low:.3f} to {high:.3f}, is wider than +-{allowed:.3f}"]


def _misfits(parameters: Draws, alternatives: list[Alternative], window: Window) -> list[str]:
    """Return the signs that the run does not follow a sigmoid at all: its ceiling means nothing then."""
    reasons = []
    sigmoid = next(fit for fit in alternatives if fit.family == "sigmoid")
    low, high = parameters.interval("a")
    for fit in alternatives:
        lead = sigmoid.bic - fit.bic
        if fit.ceiling is None or lead < OTHER_FAMILY_BIC or low <= fit.ceiling <= high:
            continue
        elsewhere = f"puts the ceiling at {fit.ceiling:.3f}, outside {low:.3f} to {high:.3f}"
        reasons.append(f"{fit.family} fits better (BIC {lead:+.1f}) and {elsewhere}")
    # Published runs, wander included, scatter about their sigmoid by white_scatter binomial sd.
    allowed = MAX_MISFIT * PUBLISHED.white_scatter * float(window.binomial_sd.mean())
    if sigmoid.rmse > allowed:
        reasons.append(f"the points do not follow a sigmoid: rmse {sigmoid.rmse:.4f}, above {allowed:.4f}")
    return reasons


def _needed_compute(parameters: Draws, window: Window) -> float | None:
    """Return where nearly every draw has made 80 % of its gain: 1.25 times the window's compute or more."""
    log_reached = np.log(parameters.c_mid) + np.log(SEEN_GAIN / (1 - SEEN_GAIN)) / parameters.b
    factor = np.exp(min(np.quantile(log_reached, 0.9) - np.log(window.compute[-1]), np.log(2 * MAX_FACTOR)))
    return float(max(factor, 1.25) * window.compute[-1]) if factor <= MAX_FACTOR else None
