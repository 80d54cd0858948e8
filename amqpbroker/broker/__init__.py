"""What it all means: virtual hosts, sessions, channels."""
