"""The pages of a report: a front page, a page and pictures for each paper, all verdicts, provenance, how to read it."""
