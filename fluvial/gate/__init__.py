"""The release gate: bars written before testing, verdicts bound to the exact weights."""
