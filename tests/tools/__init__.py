"""Checks of the repository itself and the runner behind `make test`; never imported by product code."""
