"""The metrics, one file each: a new file with a METRIC in it is a new metric (metric_table.py collects them)."""
