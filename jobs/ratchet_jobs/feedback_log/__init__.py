"""The feedback log as readers see it: immutable segments of JSON lines, every event once. Written by the gateway."""
