"""An example plug-in package for Mainspring."""
