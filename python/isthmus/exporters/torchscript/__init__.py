"""The TorchScript exporter: tracing, scripting and the choice between them."""
