"""What the feedback log promises and what it does per second, each measured on real processes."""
