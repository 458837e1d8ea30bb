"""Doors to other systems: notifications for now; git, Jira and identity providers join here."""
