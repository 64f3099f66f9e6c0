"""Is the run worth starting? Inputs, exams of the engines, samples; the verdict. Imports no engine."""
