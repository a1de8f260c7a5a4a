class Timer:
    """Notes how long the parts of something took."""

    def record(self, name):
        pass
