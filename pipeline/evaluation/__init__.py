"""Metrics, and a model measured on labelled data."""
