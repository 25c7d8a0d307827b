"""Tokens per second of the generators' server beside `model.generate` for each request."""
