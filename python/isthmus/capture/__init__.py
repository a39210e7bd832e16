"""Captures a module: its flat signature, its example values and its state."""
