"""Answers of a generator: many conversations in one pass of the model, token by token, in OpenAI's shapes."""
