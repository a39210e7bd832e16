"""The exported format: programs of `torch.export`."""
