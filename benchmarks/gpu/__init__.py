"""The check that anyone with a GPU can run: right, finite, fused, and as quick and small as it is said."""
