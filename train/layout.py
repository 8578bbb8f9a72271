"""Where a run's arrays lie: on one device, or over a mesh by one of the sharding presets."""
