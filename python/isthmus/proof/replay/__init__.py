"""Runs recorded calls again: is the model, an engine, the program or its input wrong?"""

from isthmus.proof.replay.difference import InputDifference, input_difference
from isthmus.proof.replay.replay_recording import replay, replay_recording
from isthmus.proof.replay.report import ReplayReport

__all__ = ["InputDifference", "ReplayReport", "input_difference", "replay", "replay_recording"]
