"""A search over training runs."""
