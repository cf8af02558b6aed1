"""The worker of a RunPod queue endpoint: jobs in, requests to our own gateway, replies out.

RunPod's SDK wants a process of its own. `supervision.py` starts the gateway and then that process,
and ends them in the right order; `worker.py` is what runs in it.
"""
