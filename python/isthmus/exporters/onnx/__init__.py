"""The ONNX exporter, with fused attention and int8 quantisation."""
