"""The pure rendering: one attempt at a stage in, its Job out."""
