"""The yardstick of time and memory: full-size networks with random weights."""
