"""The command ldm-engine: one file a subcommand, and what they show."""
