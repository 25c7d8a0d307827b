"""What the router costs, beside Envoy with one plain route and beside no router at all."""
