"""What a study will cost, told before it runs: FLOPs and seconds of every cell, and in total.

``forecast`` is made where the data are loaded, in the preparing process. A finished cell of the
same settings is the best source; without one, FLOPs are counted by the counter that training uses,
on tensors that have shapes alone, and a few steps, draws and images are timed on the device.
``outlook`` puts that together with the plan, and ``lines`` writes it as a table. Nothing here
decides anything: what cannot be told is left open, with the reason.
"""

from bench.estimate.forecast import forecast
from bench.estimate.outlook import Outlook, lines, outlook
from bench.estimate.subject import Subject
from bench.estimate.whole import Forecast, Left, Whole

__all__ = ["Forecast", "Left", "Outlook", "Subject", "Whole", "forecast", "lines", "outlook"]
