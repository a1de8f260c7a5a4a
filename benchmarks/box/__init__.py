"""The yardstick of the model in the box: clips of many captions, judged against drawn ones."""
