"""Load, figures and the demonstration: a client of the broker like any other, in processes of its own."""
