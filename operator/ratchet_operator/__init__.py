"""The controller of Ratchet: watches mark keys dirty, a pass observes, plans and applies."""
