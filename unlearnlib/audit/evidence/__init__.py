"""Visible evidence: planted canaries, and how fast a model relearns."""
