"""The feedback log: immutable segments of JSON lines in the store, written by many, read exactly once."""
