"""The metrics, one file each. metric_table.py collects the METRIC of every file."""
