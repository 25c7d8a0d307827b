"""The outside world behind one protocol: a real API server, this machine's processes, or memory."""
