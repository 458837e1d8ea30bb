"""The web page: NiceGUI pages and components; no logic, one file a noun."""
