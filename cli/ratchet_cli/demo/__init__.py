"""`ratchet demo`: the support-router example on real complaints with a real encoder, from nothing."""
