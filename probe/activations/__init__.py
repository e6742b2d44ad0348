"""The residual stream, read once and pooled three ways."""
