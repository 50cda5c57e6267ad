"""Programs on videos and images as spacetime patches."""
