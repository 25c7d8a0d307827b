"""Tests, their builders, the one-node test cluster (lab) and the tools that check the repository."""
