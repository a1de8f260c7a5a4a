"""The Forge family: what all of it does in its own way, and a file for each of its members."""
