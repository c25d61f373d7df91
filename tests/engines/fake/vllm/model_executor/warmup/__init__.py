"""What the fake engine warms."""
