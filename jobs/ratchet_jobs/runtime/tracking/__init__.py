"""Experiment trackers: what they are told, by whom, and that none of them ever fails or slows a stage."""
