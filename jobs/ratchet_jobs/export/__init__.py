"""A trained policy in the layouts that other programs load: one file per layout, one record beside all of them."""
