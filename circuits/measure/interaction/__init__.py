"""Do two components act together? Noising and denoising of each, of both at once, and what the two have in common.

    interaction = effect of both − effect of one − effect of the other

Effects are fractions of each pair's own gap between its clean and its corrupt run: under noising (clean run, corrupt
activations) what is lost, under denoising what is found again. Two components that add up have interaction 0 in both.

How it misleads: a third component that does the same hides what two of them share; a label says what these activations do
on these prompts, not how; a soft cap or a final norm makes a small interaction of anything; labels are of each pair alone
but for the p value, which counts all of them. Patches are of recorded activations, so a component that would have answered
to the other's loss (a backup) is held still where it is itself patched.

Reading order: `measure` (the verb), `result` (frames and figures), `rules` (from intervals to AND, OR, backup, …).
"""

from circuits.measure.interaction.measure import interactions
from circuits.measure.interaction.result import Interactions
from circuits.measure.interaction.rules import RULES, Label

__all__ = ["RULES", "Interactions", "Label", "interactions"]
