"""Names the first submodule whose output in an engine is not the model's."""

from isthmus.proof.explain.explain_bundle import explain, explain_engine
from isthmus.proof.explain.explanation import Explanation, LayerError

__all__ = ["Explanation", "LayerError", "explain", "explain_engine"]
