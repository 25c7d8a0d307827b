"""The gateway: feedback in over HTTP, kept in a log in the store; policies and estimates out."""
