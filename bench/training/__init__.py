"""The training loop, the same for every method.

It owns what methods must not: optimizers, mixed precision, moving averages, clipping, the data's
order, checkpoints and the count of FLOPs. On a CPU a run resumed from a checkpoint ends with the
same bits as one that was never interrupted.
"""

from bench.training.checkpoint import State
from bench.training.feed import Feed
from bench.training.trainer import DivergedError, Hooks, InterruptedTrainingError, Trainer
