"""What a study will cost, told before it runs: FLOPs and seconds of every cell, and in total.

A finished cell of the same settings is the best source (``recorded``). Without one, ``trials`` have
the cell's own trainer, sampler and extractors do a few steps, draws and images on the device, in a
process of its own (``rehearsal``). Nothing here decides anything or leaves a trace: what cannot be
told is left open, with the reason.
"""
