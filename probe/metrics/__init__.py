"""Scores to numbers, and what a number is worth."""
