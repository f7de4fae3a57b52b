"""Predictions for one pair, many, or a stream."""
