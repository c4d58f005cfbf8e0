"""What a sweep consists of: its lines as configurations, what of them is on record, how long the rest may take.

Below both ways of carrying a sweep out, ``bench.sweep`` (here) and ``bench.launch`` (jobs of a cluster).
"""
