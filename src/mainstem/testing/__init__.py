"""Fault injection and contract checks, for our tests and those of third parties."""
