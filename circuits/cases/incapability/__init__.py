"""Refusal and incapability, two ways of saying no: `python -m circuits.cases.incapability`.

After the public write-up on an incapability direction. `study` reads top to bottom as its argument; `inside` looks at what the
directions are made of (an autoencoder's features) and at what heads attend to; `published` holds what the write-up found on
Qwen-1.8B-Chat, shown beside our numbers and never as one of them.
"""
