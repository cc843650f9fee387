"""Find, test and draw circuits in language models."""
