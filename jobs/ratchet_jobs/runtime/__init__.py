"""What surrounds a recipe: store, commit protocol, checkpoints, signals, progress, exit codes."""
