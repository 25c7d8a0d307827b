"""The statistics of a rollout: pure functions of counts, with nothing but the standard library."""
