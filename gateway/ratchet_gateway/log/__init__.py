"""The writing half of the feedback log: group commit. Its segments and its reading are `ratchet_jobs.feedback_log`."""
