"""From a module to a flat module with a signature."""
