"""Wiring and supervision: what turns the other packages into a daemon."""
