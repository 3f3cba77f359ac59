"""A report as terminal text, web page, table, JUnit, model card: rendering only, nothing is measured here."""
