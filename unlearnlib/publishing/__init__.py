"""Everything that makes pages: notebooks and their runner, provenance, figures, tables, cards.

Imported by notebooks and the command line alone.
"""
