"""What ``bench/hit_rate.py`` is made of: traces, generated workloads, policies to compare."""
