"""The entry point that RunPod's Hub looks for; the image's own command does the same."""

from gateway.cli import cli

if __name__ == "__main__":
    cli(["runpod-worker"], prog_name="llama-gateway")
