"""How fast something learns, in bits: the length of a code for the labels that a learner writes as it goes."""
