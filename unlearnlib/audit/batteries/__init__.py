"""All audits at once: for one model, for many models of one forget set, for a state matrix."""
