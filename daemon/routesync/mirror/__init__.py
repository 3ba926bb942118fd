"""The mirror: compare what is wanted with what a loxilb has, and make the difference, gently."""
