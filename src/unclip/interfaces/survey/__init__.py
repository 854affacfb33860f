"""A page on this machine that asks people which images they prefer."""
