"""Directions in the residual stream: found, saved, and how steady they are."""
