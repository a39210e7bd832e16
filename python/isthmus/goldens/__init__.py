"""Goldens: the probes, the noise floor, the tolerances and the comparison."""
