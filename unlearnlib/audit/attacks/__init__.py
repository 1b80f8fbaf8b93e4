"""Membership attacks: one model, many models, one run; the Streisand effect."""
