"""What is due next? Graphs, sweeps, cron and roll-outs as pure functions over rows; see README.md for the picture."""
