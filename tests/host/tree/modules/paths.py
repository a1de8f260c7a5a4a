"""Where the host keeps things; a test says where."""
models_path = extensions_dir = "/nowhere"
