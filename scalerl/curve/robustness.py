"""Does the answer depend on the window? The same estimator under other cut-offs, as in the paper."""

from dataclasses import dataclass

from scalerl.curve.fit import CurveFit, fit_curve
from scalerl.curve.window import MIN_FIT_POINTS, Window, cut

CUT_OFFS = ((0.25, 1.0), (0.0, 0.75))
"""Where the parts of a window begin and end, as shares of its points."""


@dataclass(frozen=True, kw_only=True)
class WindowFit:
    """The fit of one part of a window; where it does not identify the ceiling, only the bounds of A stand."""

    start: float
    end: float
    num_points: int
    identified: bool
    a: float | None
    a_lo90: float
    a_hi90: float
    b: float | None
    c_mid: float | None
    power_law_a: float | None
    """The ceiling that a power law A - D / C^B would claim."""


def robustness(window: Window, fit: CurveFit) -> list[WindowFit]:
    """Return `fit` of the whole window, then its estimator's fit of every part that has enough points."""
    n = len(window.compute)
    rows = [_window_fit(window, fit)]
    for early, late in CUT_OFFS:
        first, last = int(early * n), int(late * n) - 1
        if last - first >= MIN_FIT_POINTS:
            part = cut(window, float(window.compute[first]), float(window.compute[last]))
            rows.append(_window_fit(part, fit_curve(part, fit.estimator)))
    return rows


def _window_fit(window: Window, fit: CurveFit) -> WindowFit:
    known = fit.identification.identified
    low, high = fit.parameters.interval("a")
    return WindowFit(
        start=float(window.compute[0]),
        end=float(window.compute[-1]),
        num_points=len(window.compute),
        identified=known,
        a=fit.curve.a if known else None,
        a_lo90=low,
        a_hi90=high,
        b=fit.curve.b if known else None,
        c_mid=fit.curve.c_mid if known else None,
        power_law_a=next(other.ceiling for other in fit.alternatives if other.family == "power_law"),
    )
