"""Which group is served worst, and through which cue: composed data, group tables, decoding, reliance."""
