"""The bundle on disk: its manifest, its files and its goldens."""
