"""Text encoders apart from a checkpoint: reForge's loader notes here the one that it loaded."""
current_text_encoder = current_text_encoder_option = None
