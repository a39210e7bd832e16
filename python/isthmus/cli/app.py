"""The root of the command line."""

from __future__ import annotations

import typer

app = typer.Typer(
    help="Takes a PyTorch or Hugging Face model into C++, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
