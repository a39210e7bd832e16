"""Runs a bundle from Python: load(), the batcher, worker processes and deployment."""
