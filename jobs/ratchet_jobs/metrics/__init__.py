"""Pure formulas that judge a policy; no IO, no torch, no sklearn (which is only the tests' oracle)."""
