"""One file per group of routes; each reads as the quick reference does."""
