"""Forge Neo has this module and the other hosts do not."""
