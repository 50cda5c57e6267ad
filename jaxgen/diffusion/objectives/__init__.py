"""What is minimised or bounded: losses, weightings, training-time distributions, likelihoods."""
