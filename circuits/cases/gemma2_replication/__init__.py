"""The refusal mechanism replicated on Gemma 2: `python -m circuits.cases.gemma2_replication`.

After the public write-up "Replicating 'Refusal Mechanism'". `study` reads top to bottom as its argument; `published` holds
what the write-up found on google/gemma-2-2b-it, shown beside our numbers and never as one of them.
"""
