"""The refusal circuit: the components of a chat model that make it refuse.

After "Analysing the Refusal Circuit in Gemma 2b IT".

Reading order: study (the argument, chapter by chapter), inputs (what is checked before anything is run), setting (how a
chapter measures), chapters (each measures its part and tells what came out), rules (what each hypothesis needs to hold),
published (what the write-up found, for comparison), graph (the circuit).
"""
