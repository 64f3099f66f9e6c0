"""What published curves teach about a new one: a small table of learnt numbers."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The default estimator's assumptions. None of them is tuned per curve; `tools/learn_prior.py` derives
    them."""

    log_b_mean: float
    log_b_scale: float
    """log B is Student-t with 4 degrees of freedom, this centre and scale."""
    gain_mean: float
    gain_sd: float
    """(A - R0) / (1 - R0) is normal, with a share `wide_weight` of sd `wide_gain_sd` for tasks unlike those
    seen."""
    white_scatter: float
    """Standard deviation of an evaluation about the sigmoid, as a multiple of its binomial standard
    deviation, for a run that does not wander."""
    scatter: float
    """The same for a run that wanders, about sigmoid and wander. Below 1 because the prompts are fixed: which
    prompts are hard does not vary from one evaluation to the next."""
    wander_sd: float
    wander_length: float
    """A run leaves its sigmoid by an Ornstein-Uhlenbeck process in log compute: stationary sd, correlation
    length."""
    drift: float
    """Beyond the window the law itself is trusted less: a random walk of sd drift * sqrt(log(C / C_last))."""
    wide_weight: float = 0.1
    wide_gain_sd: float = 0.35
    log_c_mid_sd: float = 1.5
    """log C_mid is normal about the middle of the window (in log compute)."""
    scatter_points: float = 8.0
    """The prior on the scatter counts as much as this many points."""
    wander_chance: float = 0.1
    """Probability, beforehand, that a run's own parameters need the wander: white scatter unless the
    residuals say otherwise. Predictions always allow for it, because evaluations to come are those of a real
    run."""


PUBLISHED = Prior(
    log_b_mean=0.7684,
    log_b_scale=0.1979,
    gain_mean=0.2735,
    gain_sd=0.07622,
    white_scatter=1.043,
    scatter=0.6,
    wander_sd=0.0055,
    wander_length=0.2,
    drift=0.004,
)
"""Learnt from all the published curves (18 distinct runs) by tools/learn_prior.py."""
