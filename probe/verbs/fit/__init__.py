"""The main job's figures and report."""
