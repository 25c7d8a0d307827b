"""One linear file per stage; each reads from top to bottom as the stage runs."""
