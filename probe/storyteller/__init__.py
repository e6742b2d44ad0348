"""The model organism: a made-up language in which the truth is known, and the reader that knows it."""
