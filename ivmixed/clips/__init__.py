"""Clip files, both ways."""
