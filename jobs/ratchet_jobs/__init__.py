"""The stages that run in Jobs: snapshot, supervised and evaluate."""
