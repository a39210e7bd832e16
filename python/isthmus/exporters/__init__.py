"""Makes bundles: export(), adopt() and convert(), with one folder for each format."""
