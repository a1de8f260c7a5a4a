"""The yardstick of the bundled model: clips of many captions, judged against drawn ones."""
