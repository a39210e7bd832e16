"""Makes goldens: probes, noise floor and tolerances; compares outputs with them."""
