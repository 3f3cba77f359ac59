"""Claims of the papers, run again: one module per claim, found by its name, run through the sweep.

A module holds `TITLE`, `SOURCE`, `VERSION`, `SEEDS`, `SCALES` and the functions `trials(scale, seeds)`, `run(trial)`,
`claims(rows)` and `figures(rows)`. Figures read rows and never run anything again.
"""

from firstcue.experiments.catalogue import Experiment, find, names
from firstcue.experiments.claims import Claim, Scale, judged, paired, t_interval
from firstcue.experiments.running import Outcome, reproduce

__all__ = ["Claim", "Experiment", "Outcome", "Scale", "find", "judged", "names", "paired", "reproduce", "t_interval"]
