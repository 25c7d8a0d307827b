"""Ratchet's PPO for language models against trl's PPOTrainer."""
