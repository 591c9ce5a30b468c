"""What a run costs: seconds by part, FLOPs, calls, memory, and whether the machine was fit."""
