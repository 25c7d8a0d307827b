"""What the gateway and the policy server share of HTTP: limits, refusals, logs."""
