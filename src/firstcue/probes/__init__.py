"""Can it be read? Linear and quadratic probes in closed form, strong ones from scikit-learn, each on rows held out.

What a probe reads is encoded. Whether a model uses it is another question, which no probe answers.
"""

from firstcue.probes.closed_form import Probe, linear_probe, quadratic_probe
from firstcue.probes.held_out import held_out_accuracy, strong_probe
from firstcue.probes.split import ProbeResult

__all__ = ["Probe", "ProbeResult", "held_out_accuracy", "linear_probe", "quadratic_probe", "strong_probe"]
