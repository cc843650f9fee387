"""Tasks of lm-eval that need no network: a YAML file each, their questions, and what reads these."""
