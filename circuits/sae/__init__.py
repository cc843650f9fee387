"""Sparse autoencoders, through sae-lens: a dictionary of directions in which a site's activation is a sparse sum.

    sae = load_sae("refusal-gemma", model=model)                 the one that comes with a bundled model
    sae = load_sae("folder/of/sae-lens", model=model)
    sae = load_sae("gemma-scope-2b-pt-res", sae_id="layer_12/width_16k/average_l0_82", model=model)
    features = sae.encode(act)                                   [..., feature], mostly zero
    act == sae.decode(features, like=act) + sae.error(act)

It misleads: a reconstruction that is close in squared error may still lose what the behaviour needs, which is why every
measurement carries the error along as a term of its own; and an autoencoder read on another model than its own gives
numbers all the same, which is why loading refuses that.

Reading order: `library` (sae-lens, if it is installed), `handle` (Sae), `place` (from a name to a folder), `check`
(against the model), `load`, `acts`.
"""

from circuits.sae.acts import Acts, prompt_acts, prompt_batches, site_acts
from circuits.sae.handle import Sae
from circuits.sae.load import load_sae
from circuits.sae.place import bundled_saes

__all__ = ["Acts", "Sae", "bundled_saes", "load_sae", "prompt_acts", "prompt_batches", "site_acts"]
