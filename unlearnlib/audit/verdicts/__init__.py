"""From rows to a verdict: the tidy schema, its summary, the scoreboard and the four labels."""
