"""What all tests are run with.

``pytest --hypothesis-profile thorough`` searches the property tests longer, and anew each time.
"""
import gc
import os
import sys
from importlib.util import find_spec

from hypothesis import settings

# the networks are tiny, and the tests of `make test` share the cores among them: threads would only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")

# the doubles of the hosts import the extension anew for every test: where PYTHONDONTWRITEBYTECODE is set, it would be
# compiled as often
sys.dont_write_bytecode = False

gc.disable()  # until all is imported, see the end

# the same examples on every machine, and no verdict from a slow one
settings.register_profile("everyday", deadline=None, max_examples=25, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=100, print_blob=True)
settings.load_profile("everyday")

# the doubles of the WebUIs draw their page with gradio 3, which is not there on Python 3.13; nor the live page's tools
collect_ignore_glob = [] if find_spec("gradio") else ["test_webui_*.py", "live/test_page.py"]


def pytest_collection_finish():
    """What imports made stays to the end. Nothing is to look through it again each time that garbage is collected, and
    networks are made of so many objects that it would be looked for all the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
