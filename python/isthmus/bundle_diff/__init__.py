"""Two bundles compared: what changed, and whether B is still A's model."""

from __future__ import annotations

from isthmus.bundle_diff.compare import diff

__all__ = ["diff"]
