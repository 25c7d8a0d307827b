"""The supervised stage against transformers.Trainer."""
