"""How single is the single direction? `python -m circuits.cases.single_direction`.

After the public write-up "Refusal as a Single Direction in Qwen-1.8B-Chat". `study` reads top to bottom as its argument;
`edit` is the direction taken out of the weights, and what that costs; `published` holds what the write-up found, shown beside
our numbers and never as one of them.
"""
