"""What each hypothesis needs to hold: small explicit rules over results, fixed before the numbers are seen.

`condition` says how numbers become verdicts; the other files hold the hypotheses, in the order of the argument: stages,
upstream, downstream, repair.
"""
