"""Approximate unlearning: one file a method, each reached through `unlearnlib.unlearn(name, ...)`."""
