"""What all audits compute with: ROC curves, intervals, epsilon from scores, the state matrix."""
