"""The commands of ``llama-gateway``, one file each; loaded when they are called."""
