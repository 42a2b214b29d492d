"""Pictures of what is in a clip: colour codes, legends, panels."""
