"""Language policies from human feedback: one trunk in memory, its sampling, PPO, the reward model, and their door."""
