"""Every number has its range, and a config is data."""
