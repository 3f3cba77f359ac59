"""From a model or embeddings to a report: what is encoded, what is associated, what is relied on, and what repairs it.

`model.audit` and `embeddings.audit_embeddings` run the measurements in order; `verdict.judge` is the rule; `erased` and
`edited` hold the two interventions; `remedies` says what each repair is worth on rows that it never saw.
"""
