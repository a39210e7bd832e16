"""Runs recorded calls again and names what erred: the model, an engine, the program or its input."""

from isthmus.proof.replay.difference import InputDifference, input_difference
from isthmus.proof.replay.replay_recording import replay
from isthmus.proof.replay.report import ReplayReport

__all__ = ["InputDifference", "ReplayReport", "input_difference", "replay"]
