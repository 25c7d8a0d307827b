"""Reading examples, keeping splits apart, and snapshots: everything between a file and a batch."""
