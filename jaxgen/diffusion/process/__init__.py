"""The process itself: levels, schedules, predictions, the forward process, example keys."""
