"""Cases whose answer is known, by which audits are audited: phantoms, traps, guarantees from both sides."""
