"""Sections that several cases tell in the same words: a result in, a section of the report out."""
