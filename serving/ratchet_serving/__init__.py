"""The policy server: what a trained classifier answers, over HTTP, many requests in one pass of the model."""
