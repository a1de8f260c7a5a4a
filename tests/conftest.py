"""Settings of the property tests. ``pytest --hypothesis-profile thorough`` searches longer and anew each time."""
from hypothesis import settings

# the same examples on every machine, and no verdict from a slow one
settings.register_profile("everyday", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("everyday")
