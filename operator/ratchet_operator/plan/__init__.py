"""The pure decisions: worlds in, plans out. Never reads a clock, a cluster or a random number."""
