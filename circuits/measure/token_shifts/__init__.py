"""What an edit does to the probability of named sets of tokens, at the first reply position and along the reply."""

from circuits.measure.token_shifts.shifts import TokenShifts, token_shifts

__all__ = ["TokenShifts", "token_shifts"]
