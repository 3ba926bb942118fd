"""Wiring and supervision: what turns the other rooms into a daemon."""
