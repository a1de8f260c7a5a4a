"""Where the host keeps what it writes."""
import tempfile

_folder = tempfile.TemporaryDirectory(prefix="host-data-")  # goes when this module does
data_path = _folder.name
