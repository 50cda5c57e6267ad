"""What all experiments share: launch, output, plots."""
