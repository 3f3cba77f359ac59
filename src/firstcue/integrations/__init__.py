"""Thin adapters to libraries that are installed as extras; each imports its library when it is used."""
