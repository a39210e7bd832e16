"""Proves a bundle: verify, inspect, explain and replay."""
