"""Catalog entries: what is derived for an architecture in symbolic sizes, from many small members of its family."""
