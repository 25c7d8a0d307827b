"""What an evaluation says, for people to read: one HTML page that needs nothing beside it, and the plots in it."""
