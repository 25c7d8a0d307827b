"""The ratchet command: run locally, submit, watch and promote."""
