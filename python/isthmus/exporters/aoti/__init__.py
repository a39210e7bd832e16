"""The AOTInductor exporter."""
