"""A small markup language and its HTML."""
