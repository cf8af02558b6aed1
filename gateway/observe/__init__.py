"""What leaves the service about itself: log lines, access lines, metrics."""
