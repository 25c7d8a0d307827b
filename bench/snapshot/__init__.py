"""How fast a feedback log becomes a snapshot, and in how much memory."""
