"""Ordered entries, kept."""
