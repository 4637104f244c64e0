"""The genfw command."""
