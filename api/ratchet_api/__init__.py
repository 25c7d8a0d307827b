"""The vocabulary of Ratchet: kinds, stage contract, conditions, names.

Everything else imports this package; it imports nothing of ours and needs pydantic alone.
"""

__version__ = "0.1.0"
