"""The numbers of a run that status.json shows: small enough to read five hundred of them in a moment."""

import numpy as np

from scalerl.curve.window import MIN_FIT_POINTS, Window
from scalerl.metrics.rows import Rows
from scalerl.run_folder import Latest, PredictedCeiling


def latest(rows: Rows) -> Latest:
    """Return the numbers of the newest evaluation and step."""
    evaluations, steps = rows.evaluations, rows.steps
    return Latest(
        pass_rate=evaluations[-1].pass_rate if evaluations else None,
        off_policyness_mean=steps[-1].off_policyness_mean if steps else None,
        dropped_share=steps[-1].dropped_share if steps else None,
    )


def predicted_ceiling(rows: Rows) -> PredictedCeiling | None:
    """Fit the evaluations so far over GPU-hours with the default estimator; None while they make no curve."""
    evaluations = sorted(rows.evaluations, key=lambda row: row.step)
    after = evaluations[1:]
    if len(after) < MIN_FIT_POINTS:
        return None
    from scalerl.curve.fit import fit_curve  # SciPy takes a second to import

    try:
        window = Window(
            compute=np.array([row.gpu_hours for row in after], dtype=float),
            pass_rate=np.array([row.pass_rate for row in after]),
            r0=evaluations[0].pass_rate,
            num_samples=np.array([(row.num_prompts or 0) * (row.samples_per_prompt or 0) for row in after]),
        )
    except ValueError:
        return None
    fit = fit_curve(window)
    low, high = np.quantile(fit.parameters.a, [0.05, 0.95])
    return PredictedCeiling(
        a=float(fit.curve.a),
        lo90=float(low),
        hi90=float(high),
        identified=fit.identification.identified,
        reason=fit.identification.reason,
    )
