"""What is measured of finished clips."""
