"""The conformance kit: scripts of frames, and what runs them against a broker."""
