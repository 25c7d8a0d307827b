"""RL for classifiers: the straightforward loop that ours is raced against."""
