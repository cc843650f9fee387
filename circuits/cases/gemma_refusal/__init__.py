"""The refusal circuit: the components of a chat model that make it refuse.

After "Analysing the Refusal Circuit in Gemma 2b IT".

Reading order: study (what is measured, in order), rules (what each hypothesis needs to hold), argument (what the report
says about each measurement), published (what the write-up found, for comparison), graph (the circuit).
"""
