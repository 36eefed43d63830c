"""Scores of answers against references, and 95 % intervals of them."""
