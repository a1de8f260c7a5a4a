"""The yardstick of small worlds whose truth is known in closed form."""
