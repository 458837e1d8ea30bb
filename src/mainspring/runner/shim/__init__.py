"""What the zip hands to user code as its `mainspring`; never imported from here."""
