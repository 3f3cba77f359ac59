"""Many runs that survive being killed: trials, a folder of results, and one function that runs what is missing."""

from firstcue.sweeps.running import sweep
from firstcue.sweeps.store import Result, Store
from firstcue.sweeps.trial import Trial

__all__ = ["Result", "Store", "Trial", "sweep"]
