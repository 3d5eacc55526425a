"""Predictions, metrics, statistics, verdicts."""
