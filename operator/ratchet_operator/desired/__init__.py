"""The pure rendering: one attempt at a stage in, its ConfigMap and its Job out."""
