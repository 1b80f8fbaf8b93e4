"""Audits of unlearning: attacks, distances, planted evidence, and the battery which runs them."""
