"""Measures a bundle: bench, tune and their statistics."""
