"""The chapters of the report, in the order of the argument.

Each file measures its part (`measure`) and tells what came out (`tell`): behaviour, stages, heads, upstream, downstream,
repair, together. `STEPS` is how many measurements it makes.
"""
