"""The analyst: folds the log's exposures and feedback by subject, and serves what a verdict on a rollout rests on."""
