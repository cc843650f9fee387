"""The same sweep on many GPUs or machines, with equal numbers: workers that hold the model, through Ray.

    with ray_workers(model, workers=2):
        patch_residual(model, tokens, metric)      # its blocks are computed by the workers

Reading order: packed (what is sent), holder (what a worker does), cluster (where workers live), members (who is there, who
was lost), jobs (who computes what next), pool (all of it as the engine's executor), workers (the call above).
"""

from circuits.remote.workers import ray_workers

__all__ = ["ray_workers"]
