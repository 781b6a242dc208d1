"""Accuracy on held-out rows: packed scoring of answers under many adapters at once."""
