"""Refusal in a rotation plane: `python -m circuits.cases.rotation_plane`.

After the public write-up on vector rotation as what ablation and addition are special cases of. `study` reads top to bottom as
its argument; `published` holds what the write-up found on Qwen2.5-7B-Instruct, shown beside our numbers and never as one of
them.
"""
