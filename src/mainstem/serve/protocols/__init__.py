"""Protocols of other servers, spoken over the served models: one file each."""
