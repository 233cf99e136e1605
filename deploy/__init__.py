"""Everything that puts Neurodial on machines: Ray Serve, command line, configuration, demo model."""
