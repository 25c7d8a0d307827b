"""How many requests per second the policy server answers, beside a pipeline called per request."""
