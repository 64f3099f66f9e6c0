"""Many runs: the grid of an axis, its forecast, its submission, and what has become of every run."""
