"""Does the answer depend on the window? Refits under other cut-offs (the paper's robustness table)."""

from dataclasses import dataclass

from scalerl.curve.alternatives import power_law
from scalerl.curve.least_squares import fit_least_squares
from scalerl.curve.window import MIN_POINTS, Window

EARLY_SHARES = (0.0, 0.25, 0.5)
LATE_SHARES = (1.0, 0.75)
"""Cut-offs tried when none are asked for, as shares of the window's points."""


@dataclass(frozen=True, kw_only=True)
class WindowFit:
    """Least squares on a part of the window."""

    start: float
    end: float
    num_points: int
    a: float
    b: float
    c_mid: float
    power_law_a: float
    """The ceiling that a power law A - D / C^B would claim."""


def cut(window: Window, start: float = 0.0, end: float = float("inf")) -> Window:
    """The part of a window with start <= compute <= end.

    Raises:
        ValueError: too few points are left.
    """
    inside = (window.compute >= start) & (window.compute <= end)
    samples = window.num_samples if isinstance(window.num_samples, int | float) else window.num_samples[inside]
    return Window(compute=window.compute[inside], pass_rate=window.pass_rate[inside], r0=window.r0, num_samples=samples)


def fit_window(window: Window) -> WindowFit:
    """Least squares on the whole of `window`."""
    curve = fit_least_squares(window.compute, window.pass_rate, window.r0)
    power_law_a = power_law(window)[0]
    assert power_law_a is not None
    return WindowFit(
        start=float(window.compute[0]),
        end=float(window.compute[-1]),
        num_points=len(window.compute),
        a=curve.a,
        b=curve.b,
        c_mid=curve.c_mid,
        power_law_a=power_law_a,
    )


def stability(window: Window) -> list[WindowFit]:
    """Least squares under every pair of early and late cut-off that leaves enough points."""
    n = len(window.compute)
    fits = []
    for early in EARLY_SHARES:
        for late in LATE_SHARES:
            first, last = int(early * n), int(late * n) - 1
            if last - first + 1 >= max(MIN_POINTS, 5):
                fits.append(fit_window(cut(window, float(window.compute[first]), float(window.compute[last]))))
    return fits
