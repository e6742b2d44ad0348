"""Steered texts: who writes them, on which ground, and what steering did."""
