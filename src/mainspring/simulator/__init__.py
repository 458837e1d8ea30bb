"""A simulator of scheduling under the real planner: see `simulate.py`."""

from mainspring.simulator.figures import Figures, Waits, figures, waits, waits_by_share, worse_than_alone
from mainspring.simulator.jobs import Done, Job, with_noise
from mainspring.simulator.simulate import Faults, History, Planner, Setting, simulate

__all__ = [
    "Done",
    "Faults",
    "Figures",
    "History",
    "Job",
    "Planner",
    "Setting",
    "Waits",
    "figures",
    "simulate",
    "waits",
    "waits_by_share",
    "with_noise",
    "worse_than_alone",
]
