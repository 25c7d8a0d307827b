"""Every performance figure of the README, each side by side with its peer in one run."""
