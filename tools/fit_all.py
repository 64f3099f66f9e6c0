#!/usr/bin/env python3
"""Fit, predict and rank all the curves of a sweep.

    python tools/fit_all.py SWEEP_DIR                     # into SWEEP_DIR/fits
    python tools/fit_all.py points.csv --out DIR --estimator paper
    python tools/fit_all.py SWEEP_DIR --out DIR --predict 16000,50000   # writes prediction.json, once

Exit code 1 if a run could not be read (the rest is fitted), 2 if nothing could.
"""

import sys

from scalerl.fits.command import main

if __name__ == "__main__":
    sys.exit(main())
