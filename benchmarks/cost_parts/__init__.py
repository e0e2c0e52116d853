"""The parts of costs.py. Each measures one variant in its own process, and says what was aimed at.

`measure` returns the name of each figure with its samples; those of all rounds are pooled.
`goals` turns their medians into rows of the table.
"""
