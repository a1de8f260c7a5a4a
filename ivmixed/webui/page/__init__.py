"""What the page shows: panels, the txt2vid tab, axes of the X/Y/Z plot, settings."""
