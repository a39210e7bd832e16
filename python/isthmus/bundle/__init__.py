"""Reads and writes bundles: the manifest, the files and the goldens."""
